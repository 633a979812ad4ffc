"""`homegrown plan`: what a run will take, before anything is spent."""

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("pipeline")
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in training.max_steps=200."
)
@click.option("--gpu", metavar="NAME", help="Plan for this GPU by its public specifications, such as h100 or rtx4090.")
@click.option("--count", type=click.IntRange(min=1), help="How many GPUs; default: the recipe's compute.processes.")
@click.option(
    "--mfu",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Model FLOPs utilisation to assume of --gpu; default: 0.4.",
)
@click.option("--watts", type=click.FloatRange(min=0, min_open=True), help="Power of a device; default: see the plan.")
@click.option("--measure/--no-measure", default=True, help="Train a few steps here to see how long all will take.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.pass_obj
def plan(
    store: Store,
    pipeline: str,
    changes: tuple[str, ...],
    gpu: str | None,
    count: int | None,
    mfu: float | None,
    watts: float | None,
    measure: bool,
    as_json: bool,
) -> None:
    """Say what PIPELINE will take, before anything is spent: text, memory, time, energy.

    Time on this machine is measured by a few real steps on made-up tokens, which takes some twenty seconds and leaves
    nothing. Runs that there were are shown beside what is predicted.
    """
    import json
    import math

    from rich.console import Console

    from homegrown.config.pipelines import load_recipe
    from homegrown.planning import gpus
    from homegrown.planning.machine import this_machine
    from homegrown.planning.plan import make_plan
    from homegrown.planning.render_plan import print_plan
    from homegrown.planning.target import gpus_as_target, this_machine_as_target

    for option, value in (("--mfu", mfu), ("--watts", watts)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} is {value}; give a number.")
    if gpu is None and (count or mfu):
        raise UserError("--count and --mfu belong to --gpu; this machine is measured, with compute.processes devices.")
    recipe = load_recipe(pipeline, changes)
    if gpu is None:
        target = this_machine_as_target(this_machine(), recipe, watts)
    else:
        target = gpus_as_target(gpus.find(gpu), count or recipe.compute.processes, recipe, watts)
    made = make_plan(recipe, store, target, measure=measure, utilisation=mfu)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        print_plan(Console(), made)
