"""`homegrown run`: a pipeline in this process, watched in the terminal."""

import click

from homegrown.artifacts import Store


@click.command()
@click.argument("pipeline")
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in training.max_steps=200."
)
@click.option("--until", metavar="STAGE", default="evaluate", show_default=True, help="Last stage to run.")
@click.option("--only", metavar="STAGE", help="Run this stage again, and make only what is missing before it.")
@click.option("--force", metavar="STAGE", multiple=True, help="Run this stage again although it is cached.")
@click.pass_obj
def run(
    store: Store, pipeline: str, changes: tuple[str, ...], until: str, only: str | None, force: tuple[str, ...]
) -> None:
    """Run PIPELINE of pipelines.yaml; what is already made is taken as it is.

    Uses the Prefect server at the configured address, and starts one for the run where none answers.
    """
    from flows import run as runner
    from homegrown.pipelines import load_recipe

    recipe = load_recipe(pipeline, changes)
    runner.run(recipe, store, only or until, [only] if only else list(force))
