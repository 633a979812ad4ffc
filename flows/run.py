"""A run in this process, watched in the terminal: what `homegrown run` does."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homegrown.artifacts import Store
from homegrown.errors import UserError
from homegrown.files import read_parquet
from homegrown.recipe import Recipe
from tasks.figures import shown

if TYPE_CHECKING:
    from flows.pretrain import StageName


def run(recipe: Recipe, store: Store, until: str, force: list[str], from_stage: str | None = None) -> None:
    """Run the recipe's stages up to `until`, those in `force` and all from `from_stage` on again; print the report.

    Raises:
        UserError: a stage's name is wrong or contradicts another's, or a stage failed by a mistake that can be mended.
    """
    prepare(store)
    console = Console()
    with ExitStack() as services:
        with console.status("starting"):
            with uncollected():
                from flows import server
                from flows.pretrain import CHAIN, again, pretrain
                from flows.terminal import live_display

            last, *forced = stage_names(until, *force)
            first = None if from_stage is None else stage_names(from_stage)[0]
            again(last, first, forced)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n", highlight=False)
        stages = list(CHAIN)
        with told_in_a_sentence(), live_display(console, stages[: stages.index(last) + 1]):
            made = pretrain(recipe=recipe, until=last, from_stage=first, force=forced)
    report(console, recipe.name, {stage: handle.path for stage, handle in made.items()})


def prepare(store: Store) -> None:
    """Point Prefect at the store, before it is imported: it reads its settings then.

    Its lines would tear the live display; they go to the UI.
    """
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Say what remains when the run was stopped (Ctrl-C, SIGTERM, cancelled in the UI) or lost its server."""
    from httpx import TransportError
    from prefect.exceptions import TerminationSignal

    # Prefect hands the signal on to who listened before; by default that would end the process without a word.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, TerminationSignal) as error:
        raise UserError("The run was stopped; the same command goes on from where it was.") from error
    except TransportError as error:
        raise UserError(
            "The Prefect server went away during the run; what is made is kept, and the same command goes on."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage among what is imported: there is none, and looking takes a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
