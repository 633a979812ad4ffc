"""A run in this process, watched in the terminal: what `homegrown run` does."""

import os
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from homegrown.artifacts import Store
from homegrown.errors import UserError
from homegrown.files import parquet_parts
from homegrown.recipe import Recipe


def run(recipe: Recipe, store: Store, until: str, force: list[str]) -> None:
    """Run the recipe's stages up to `until`, those in `force` again, and print the report.

    Raises:
        UserError: a stage's name is wrong, or a stage failed by a mistake that can be mended.
    """
    # Before Prefect is imported: it reads its settings then. Its lines would tear the live display; they go to the UI.
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(store.root)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    console = Console()
    with ExitStack() as services:
        with console.status("starting"):
            from flows import server
            from flows.pretrain import CHAIN, pretrain
            from flows.terminal import live_display

            for name in (until, *force):
                if name not in CHAIN:
                    raise UserError(f"There is no stage {name!r}; the stages are: {', '.join(CHAIN)}.")
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n", highlight=False)
        stages = list(CHAIN)
        with live_display(console, stages[: stages.index(until) + 1]):
            made = pretrain(recipe, until, force)
    report(console, {stage: handle.path for stage, handle in made.items()})


def report(console: Console, made: dict[str, Path]) -> None:
    """Print what a finished run made: the evaluation, where everything lies, a sample, and what to try next."""
    artifacts = Table("stage", "artifact", title="Artifacts", title_justify="left")
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
            "  homegrown generate --prompt 'Return the'\n"
            "  homegrown sql 'select rule, count(*) from filter.dropped group by rule'\n"
            "  homegrown run tiny --set training.max_steps=1200",
            highlight=False,
        )


def _evaluation(folder: Path) -> Table:
    import pyarrow.parquet as pq

    rows = pq.read_table(parquet_parts(folder / "results")).to_pylist()
    table = Table(title="Evaluation on held-out text", title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "variant" else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
