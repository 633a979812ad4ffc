"""`homegrown dpo`: trains a model on preferences in this process."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import Flow, run_flow, show_tuned
from homegrown.store.artifacts import Store

if TYPE_CHECKING:
    from tasks.stage import Handle

FEEDBACK = ("dpo.supervised=1",)
"""What differs for pairs of feedback: a corrected answer is an example too, which the model has yet to learn."""


@click.command()
@click.argument("recipe", metavar="NAME")
@click.option("--base", metavar="MODEL", help="Base model: finetune@2, starter, folder, GGUF file.")
@click.option("--data", "files", multiple=True, metavar="PATH", help="Path or address of pairs; repeatable.")
@click.option("--feedback", is_flag=True, help="Also pairs of `homegrown feedback`.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="SETTING=VALUE",
    help="Changed setting, such as dpo.beta=0.2; repeatable.",
)
@click.option("--force", metavar="STAGE", multiple=True, help="Cached stage to run again; repeatable.")
@click.pass_obj
def dpo(
    store: Store,
    recipe: str,
    base: str | None,
    files: tuple[str, ...],
    feedback: bool,
    changes: tuple[str, ...],
    force: tuple[str, ...],
) -> None:
    """Train a model on preferences (DPO).

    NAME is the name of a deployment dpo/NAME in pipelines.yaml. The pairs have a prompt, a chosen and a rejected
    answer. The base is a model of the store, best a fine-tuned one, starter (SmolLM2-135M-Instruct), or the folder of a
    Hugging Face model or the GGUF file of a Llama, Mistral, Qwen2 or Qwen3.
    """
    if feedback:
        files, changes = (*files, feedback_file(store)), (*FEEDBACK, *changes)
    run_dpo(store, Console(), recipe, base, files, changes, force)


def run_dpo(
    store: Store,
    console: Console,
    recipe: str,
    base: str | None,
    files: Sequence[str],
    changes: Sequence[str],
    force: Sequence[str],
) -> None:
    """Run a recipe of DPO on the pairs in `files` and print before and after; without files, on the recipe's own."""
    from homegrown.config.pipelines import load_dpo

    given = [
        *([f"base={json.dumps(base)}"] if base is not None else []),
        *([f"preferences.files={json.dumps(list(files))}"] if files else []),
    ]
    loaded = load_dpo(recipe, [*given, *changes])

    def prepare() -> "Flow[dict[str, Handle]]":
        from flows.dpo import dpo, stages_of
        from flows.finetune import check_base, check_force
        from homegrown.data import instruction_files

        stages = stages_of(loaded)
        check_force(stages, force)
        check_base(loaded)
        instruction_files.find(loaded.preferences.files, "preferences.files")
        return stages, lambda: dpo(recipe=loaded, force=list(force))

    made = run_flow(store, console, prepare)
    from homegrown.finetuning.win_rate import before_and_after, read_results

    table = replace(before_and_after(read_results(made["win-rate"].path)), title="Held-out pairs")
    show_tuned(console, made, table, "dpo")


def feedback_file(store: Store) -> str:
    """Write the pairs of feedback to a file, print how many there are and of which models, and return its path."""
    from collections import Counter

    from homegrown.rating.feedback import Feedback

    feedback = Feedback(store)
    pairs = feedback.pairs()
    path = feedback.training_file(pairs)
    models = Counter(pair.rejected.model for pair in pairs.pairs)
    click.echo(f"Feedback on {', '.join(f'{model} ({count})' for model, count in models.items())}: {pairs.note()}")
    return str(path)
