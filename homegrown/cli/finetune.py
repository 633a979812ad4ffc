"""`homegrown finetune`: fine-tunes a model in this process."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homegrown.cli.local_run import Flow, run_flow
from homegrown.store.artifacts import Store
from homegrown.util.files import read_parquet

if TYPE_CHECKING:
    from tasks.stage import Handle


@click.command()
@click.argument("recipe", metavar="NAME")
@click.option("--base", metavar="MODEL", help="Base model: pretrain@3, finetune@1, key or folder.")
@click.option("--data", "files", multiple=True, metavar="PATH", help="Path or address of conversations; repeatable.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="SETTING=VALUE",
    help="Changed setting, such as finetuning.method=qlora; repeatable.",
)
@click.option("--force", metavar="STAGE", multiple=True, help="Cached stage to run again; repeatable.")
@click.pass_obj
def finetune(
    store: Store,
    recipe: str,
    base: str | None,
    files: tuple[str, ...],
    changes: tuple[str, ...],
    force: tuple[str, ...],
) -> None:
    """Fine-tune a model on conversations.

    NAME is the name of a deployment finetune/NAME in pipelines.yaml. The base is a model of the store or a local folder
    of a Hugging Face model with the layout of Qwen3 or Llama.
    """
    from homegrown.config.pipelines import load_finetuning

    given = [
        *([f"base={json.dumps(base)}"] if base is not None else []),
        *([f"instructions.files={json.dumps(files)}"] if files else []),
    ]
    loaded = load_finetuning(recipe, [*given, *changes])
    console = Console()

    def prepare() -> "Flow[dict[str, Handle]]":
        from flows.finetune import check_base, check_force, finetune, stages_of
        from homegrown.data import instruction_files

        stages = stages_of(loaded)
        check_force(stages, force)
        check_base(loaded)
        instruction_files.find(loaded.instructions.files)
        return stages, lambda: finetune(recipe=loaded, force=list(force))

    made = run_flow(store, console, prepare)
    console.print(_before_and_after(made["answers"].path))
    for stage, handle in made.items():
        console.print(f"  {stage:<12} {handle.path}", highlight=False, soft_wrap=True)
    name = made["finetune"].name
    page = made["answers"].path / "report.html"
    console.print(
        f"\nAnswers side by side: {page}\n[bold]Next:[/bold]\n  homegrown chat {name}\n"
        f"  homegrown export {name} --to gguf --out my-model",
        highlight=False,
        soft_wrap=True,
    )


def _before_and_after(folder: Path) -> Table:
    shares = {"ended": "ended", "formatted": "format", "same": "same"}
    rows = read_parquet(folder / "results", ["model", "loss", "bits_per_byte", *shares]).to_pylist()
    if all(row["formatted"] is None for row in rows):  # the recipe has no pattern
        del shares["formatted"]
    table = Table(title="Held-out questions", title_justify="left", box=SIMPLE_HEAD)
    for name in ("model", "loss", "bits/byte", *shares.values()):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        cells = ["" if row[name] is None else f"{row[name]:.0%}" for name in shares]
        table.add_row(row["model"], f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}", *cells)
    return table
