"""`homegrown plan`: memory, time and energy of a recipe before it runs."""

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("pipeline")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="SETTING=VALUE",
    help="Changed setting; repeatable.",
)
@click.option("--gpu", metavar="NAME", help="GPU to plan for, such as h100; default: this machine.")
@click.option("--count", type=click.IntRange(min=1), help="Number of GPUs; default: compute.processes.")
@click.option(
    "--mfu",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Model FLOPs utilization of --gpu; default: 0.4.",
)
@click.option(
    "--watts", type=click.FloatRange(min=0, min_open=True), help="Watts of a device; default: its specification."
)
@click.option("--measure/--no-measure", default=True, help="Time a few real steps here; default: on.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
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
    """Predict text, memory, time and energy of PIPELINE.

    PIPELINE is a recipe of pipelines.yaml, such as tiny, starter or finetune/tiny. On this machine, the time comes from
    a few real steps on random tokens. They take about twenty seconds and leave no files. Earlier runs are shown beside
    the prediction.
    """
    import json
    import math

    from homegrown.config.pipelines import load_any
    from homegrown.planning import gpus
    from homegrown.planning.machine import this_machine
    from homegrown.planning.plan import make_plan
    from homegrown.planning.render_plan import print_plan
    from homegrown.planning.target import gpus_as_target, this_machine_as_target

    for option, value in (("--mfu", mfu), ("--watts", watts)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} is {value}; give a finite number.")
    if gpu is None and (count or mfu):
        raise UserError("--count and --mfu need --gpu; this machine is measured with compute.processes devices.")
    recipe = load_any(pipeline, changes)
    if gpu is None:
        target = this_machine_as_target(this_machine(), recipe, watts)
    else:
        target = gpus_as_target(gpus.find(gpu), count or recipe.compute.processes, recipe, watts)
    made = make_plan(recipe, store, target, measure=measure, utilisation=mfu)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        print_plan(made)
