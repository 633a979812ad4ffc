"""`homegrown lm-eval`: evaluates a model with lm-evaluation-harness."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from homegrown.cli.local_run import Flow, run_flow
from homegrown.cli.options.model import stored_name
from homegrown.reporting.blocks import Table
from homegrown.reporting.terminal import print_table
from homegrown.store.artifacts import Store
from homegrown.store.lookup import find_model
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from tasks.stage import Handle


@click.command("lm-eval")
@click.argument("artifact", default="pretrain", metavar="[PRETRAIN[@VERSION]]")
@click.option("--tasks", metavar="NAMES", help="Comma-separated tasks; default: two of held-out text.")
@click.option(
    "--include-path",
    "include",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with custom tasks as YAML.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Maximum documents per task.")
@click.option(
    "--num-fewshot",
    "few_shot",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Answered examples before each question.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda", "xpu", "mps"]),
    help="Compute device.",
)
@click.option("--download", is_flag=True, help="Fetch task data from the Hugging Face hub.")
@click.pass_obj
def lm_eval(
    store: Store,
    artifact: str,
    tasks: str | None,
    include: Path | None,
    limit: int | None,
    few_shot: int,
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"],
    download: bool,
) -> None:
    """Evaluate a model with lm-evaluation-harness.

    The results are an artifact; `homegrown report evaluation` shows them beside the model's other results.
    """
    names = None if tasks is None else [name for name in map(str.strip, tasks.split(",")) if name]
    if names == []:
        raise UserError("--tasks names no task; leave it out for the two tasks of held-out text.")
    artifact = stored_name(store, artifact)
    model = find_model(store, artifact)
    console = Console(highlight=False, soft_wrap=True)

    def prepare() -> "Flow[Handle]":
        from flows.lm_eval import STAGE, harness_settings, lm_eval, shards_of

        settings: dict[str, Any] = {
            "include": None if include is None else str(include),
            "max_documents": limit,
            "few_shot": few_shot,
            "download": download,
        }
        shards_of(store, model, harness_settings(names, **settings))
        return [STAGE], lambda: lm_eval(artifact, names, device=device, **settings)

    made = run_flow(store, console, prepare)
    from tasks.lm_eval import rows

    evaluated = store.resolve(made.name)
    console.print()
    print_table(_table(rows(evaluated)))
    console.print(f"{evaluated.name}: {evaluated.path}")


def _table(rows: list[dict[str, str]]) -> Table:
    names = ("task", "metric")
    return Table(
        list(rows[0]),
        [[*row.values()] for row in rows],
        align="".join("l" if name in names else "r" for name in rows[0]),
    )
