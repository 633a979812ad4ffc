"""A fine-tuning in this process, watched in the terminal: what `homegrown finetune` does."""

from contextlib import ExitStack
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from flows.run import prepare, told_in_a_sentence, uncollected
from homegrown.artifacts import Store
from homegrown.files import read_parquet
from homegrown.finetune_recipe import FinetuneRecipe


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
                from flows import server
                from flows.finetune import again, check_base, finetune, stages_of
                from flows.terminal import live_display
                from homegrown.tokens import instruction_files

            stages = stages_of(recipe)
            again(stages, force)
            check_base(recipe)
            instruction_files.find(recipe.instructions.files)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n", highlight=False)
        with told_in_a_sentence(), live_display(console, stages):
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
