"""`homegrown sweep`: one setting over several values."""

from pathlib import Path

import click

from homegrown.artifacts import Store
from homegrown.commands.out import Out


@click.command()
@click.argument("pipeline")
@click.argument("setting")
@click.argument("values", metavar="VALUE...", nargs=-1, required=True)
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change another one, the same for all values."
)
@click.option("--until", metavar="STAGE", default="evaluate", show_default=True, help="Last stage to run.")
@click.option("--out", type=Out(), help="Page (.html) or picture (.png) of the results.")
@click.pass_obj
def sweep(
    store: Store,
    pipeline: str,
    setting: str,
    values: tuple[str, ...],
    changes: tuple[str, ...],
    until: str,
    out: Path | None,
) -> None:
    """Run PIPELINE once for each VALUE of SETTING, as in `homegrown sweep tiny training.learning_rate 0.01 0.02 0.04`.

    Every value is checked before anything runs. Stages that the runs have in common are made once. A value that fails
    does not stop the others. After a kill the same command goes on.
    """
    from flows.sweep import plan_sweep, run_sweep
    from homegrown.comparison.output import kind_of

    if out:
        kind_of(out)
    run_sweep(plan_sweep(pipeline, setting, list(values), list(changes)), store, until, out)
