"""`homegrown run`: a pipeline in this process, watched in the terminal."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homegrown.cli.local_run import interruption_reported, prepare, uncollected
from homegrown.config.recipe import Recipe
from homegrown.reporting.numbers import shown
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from homegrown.util.files import read_parquet

if TYPE_CHECKING:
    from flows.pretrain import StageName


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
    from homegrown.config.pipelines import load_recipe

    given = {"--until": until, "--from": from_stage, "--force": force}
    if only is not None and (others := [name for name, value in given.items() if value]):
        raise UserError(
            f"--only {only} already says which one stage runs again and ends the run; leave out {others[0]}."
        )
    recipe = load_recipe(pipeline, changes)
    last = only if only is not None else until if until is not None else "evaluate"
    run_pipeline(recipe, store, last, list(force) if only is None else [only], from_stage)


def run_pipeline(recipe: Recipe, store: Store, until: str, force: list[str], from_stage: str | None = None) -> None:
    """Run the recipe's stages up to `until`, those in `force` and all from `from_stage` on again; print the report.

    Raises:
        UserError: a stage's name is wrong or contradicts another's, or a stage failed by a mistake that can be mended.
    """
    prepare(store)
    console = Console()
    with ExitStack() as services:
        with console.status("starting"):
            with uncollected():
                from flows.local import server
                from flows.pretrain import CHAIN, again, pretrain
                from homegrown.cli.live_display import live_display

            last, *forced = stage_names(until, *force)
            first = None if from_stage is None else stage_names(from_stage)[0]
            again(last, first, forced)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n", highlight=False)
        stages = list(CHAIN)
        with interruption_reported(), live_display(console, stages[: stages.index(last) + 1]):
            made = pretrain(recipe=recipe, until=last, from_stage=first, force=forced)
    report(console, recipe.name, {stage: handle.path for stage, handle in made.items()})


def stage_names(*names: str) -> "list[StageName]":
    """Return the names as those of stages; raises UserError when one is none."""
    from flows.pretrain import CHAIN

    found = []
    for name in names:
        stage = next((stage for stage in CHAIN if stage == name), None)
        if stage is None:
            raise UserError(f"There is no stage {name!r}; the stages are: {', '.join(CHAIN)}.")
        found.append(stage)
    return found


def report(console: Console, name: str, made: dict[str, Path]) -> None:
    """Print what a run of the pipeline `name` made: evaluation, where everything lies, a sample, what to try next."""
    command = _short(Path(sys.argv[0]).absolute())
    artifacts = Table("stage", "artifact", title="Artifacts", title_justify="left", box=SIMPLE_HEAD)
    for stage, path in made.items():
        artifacts.add_row(stage, _short(path))
    if "evaluate" in made:
        console.print(_evaluation(made["evaluate"]))
    console.print(artifacts)
    if "evaluate" in made:
        sample = (made["evaluate"] / "sample.txt").read_text(encoding="utf-8")
        console.print("[bold]The model writes:[/bold]")
        console.print(sample, markup=False, highlight=False)
        console.print(
            "\n[bold]Next:[/bold]\n"
            f"  {command} generate --prompt 'Return the'\n"
            f"  {command} sql 'select rule, count(*) from filter.dropped group by rule'\n"
            f"  {command} run {name} --set evaluation.samples=64",
            highlight=False,
            soft_wrap=True,
        )


# The columns of the evaluation's results that fit a terminal; all are in `evaluate.results`.
_COLUMNS = {
    "variant": "variant",
    "bits_per_byte": "bits/byte",
    "perplexity": "perplexity",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "tokens_per_second": "tokens/s",
    "disk_megabytes": "MB",
}


def _evaluation(folder: Path) -> Table:
    table = Table(title="Evaluation on held-out text", title_justify="left", box=SIMPLE_HEAD)
    for name, header in _COLUMNS.items():
        table.add_column(header, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in read_parquet(folder / "results", list(_COLUMNS)).to_pylist():
        if row["bits_per_byte"] is not None:
            table.add_row(*("" if value is None else shown(value) for value in row.values()))
    return table


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
