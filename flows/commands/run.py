"""`homegrown run`: a pipeline in this process, watched in the terminal."""

import click

from homegrown.artifacts import Store
from homegrown.errors import UserError


@click.command()
@click.argument("pipeline")
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in training.max_steps=200."
)
@click.option("--until", metavar="STAGE", help="Last stage to run.  [default: evaluate]")
@click.option("--from", "from_stage", metavar="STAGE", help="Run this stage and all after it again.")
@click.option("--force", metavar="STAGE", multiple=True, help="Run this stage again although it is cached.")
@click.option("--only", metavar="STAGE", help="Run this stage again, and make only what is missing before it.")
@click.pass_obj
def run(
    store: Store,
    pipeline: str,
    changes: tuple[str, ...],
    until: str | None,
    from_stage: str | None,
    force: tuple[str, ...],
    only: str | None,
) -> None:
    """Run PIPELINE of pipelines.yaml; what is already made is taken as it is.

    Uses the Prefect server at the configured address, and starts one for the run where none answers.
    """
    from flows import run as runner
    from homegrown.pipelines import load_recipe

    given = {"--until": until, "--from": from_stage, "--force": force}
    if only is not None and (others := [name for name, value in given.items() if value]):
        raise UserError(
            f"--only {only} already says which one stage runs again and ends the run; leave out {others[0]}."
        )
    recipe = load_recipe(pipeline, changes)
    last = only if only is not None else until if until is not None else "evaluate"
    runner.run(recipe, store, last, list(force) if only is None else [only], from_stage)
