"""`homegrown finetune`: fine-tunes a model in this process."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import Flow, run_flow, show_tuned
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from tasks.stage import Handle


@click.command()
@click.argument("recipe", metavar="NAME")
@click.option("--base", metavar="MODEL", help="Base model: pretrain@3, starter, folder, GGUF file.")
@click.option("--data", "files", multiple=True, metavar="PATH", help="Path or address of conversations; repeatable.")
@click.option("--feedback", is_flag=True, help="Train on pairs of `homegrown feedback` (DPO).")
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
    feedback: bool,
    changes: tuple[str, ...],
    force: tuple[str, ...],
) -> None:
    """Fine-tune a model on conversations.

    NAME is the name of a deployment finetune/NAME in pipelines.yaml. The base is a model of the store, starter
    (SmolLM2-135M-Instruct), or the folder of a Hugging Face model or the GGUF file of a Llama, Mistral, Qwen2 or Qwen3.

    --feedback runs dpo/NAME instead, with its settings and its base: preferences are learned by DPO.
    """
    if feedback:
        from homegrown.cli.dpo import FEEDBACK, feedback_file, run_dpo

        if files:
            raise UserError("--data and --feedback are two trainings; fine-tune with --data first, then --feedback.")
        click.echo(f"Preferences are learned by DPO: this is `homegrown dpo {recipe} --feedback`.")
        run_dpo(store, Console(), recipe, base, [feedback_file(store)], (*FEEDBACK, *changes), force)
        return
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
    from homegrown.finetuning.answers_report import before_and_after, read_results

    table = replace(before_and_after(read_results(made["answers"].path)), title="Held-out questions")
    show_tuned(console, made, table, "finetune")
