"""`homegrown finetune`: a trained model learns from conversations, in this process, watched in the terminal."""

from contextlib import ExitStack
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homegrown.cli.local_run import interruption_reported, prepare, uncollected
from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.store.artifacts import Store
from homegrown.util.files import read_parquet


@click.command()
@click.argument("recipe", metavar="NAME")
@click.option("--base", metavar="MODEL", help="Begin with another model: pretrain@3, finetune@1, a key, or a folder.")
@click.option("--data", "files", multiple=True, metavar="PATH", help="Conversations to learn from: a path or address.")
@click.option(
    "--set", "changes", multiple=True, metavar="SETTING=VALUE", help="Change one, as in finetuning.method=qlora."
)
@click.option("--force", metavar="STAGE", multiple=True, help="Run this stage again although it is cached.")
@click.pass_obj
def finetune(
    store: Store,
    recipe: str,
    base: str | None,
    files: tuple[str, ...],
    changes: tuple[str, ...],
    force: tuple[str, ...],
) -> None:
    """Have a trained model learn from conversations; NAME is that of a deployment finetune/NAME of pipelines.yaml.

    A base is a model of ours, or a local folder of a Hugging Face model in the layout of Qwen3 or Llama.
    """
    import json

    from homegrown.config.pipelines import load_finetuning

    given = [
        *([f"base={json.dumps(base)}"] if base is not None else []),
        *([f"instructions.files={json.dumps(files)}"] if files else []),
    ]
    run_finetune(load_finetuning(recipe, [*given, *changes]), store, list(force))


def run_finetune(recipe: FinetuneRecipe, store: Store, force: list[str]) -> None:
    """Run the recipe, and print before and after, and where everything lies.

    Raises:
        UserError: base or conversations are not there, the base does not fit, or a stage failed by a mistake that can
            be mended.
    """
    prepare(store)
    console = Console()
    with ExitStack() as services:
        with console.status("starting"):
            with uncollected():
                from flows.finetune import again, check_base, finetune, stages_of
                from flows.local import server
                from homegrown.cli.live_display import live_display
                from homegrown.data import instruction_files

            stages = stages_of(recipe)
            again(stages, force)
            check_base(recipe)
            instruction_files.find(recipe.instructions.files)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n", highlight=False)
        with interruption_reported(), live_display(console, stages):
            made = finetune(recipe=recipe, force=force)
    console.print(_before_and_after(made["answers"].path))
    for stage, handle in made.items():
        console.print(f"  {stage:<12} {handle.path}", highlight=False, soft_wrap=True)
    name = f"finetune@{made['finetune'].folder.split('-')[0]}"
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
    if all(row["formatted"] is None for row in rows):  # no pattern was asked for
        del shares["formatted"]
    table = Table(title="Held-out questions", title_justify="left", box=SIMPLE_HEAD)
    for name in ("model", "loss", "bits/byte", *shares.values()):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        told = ["" if row[name] is None else f"{row[name]:.0%}" for name in shares]
        table.add_row(row["model"], f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}", *told)
    return table
