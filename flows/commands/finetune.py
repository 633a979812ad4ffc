"""`homegrown finetune`: a trained model learns from conversations, in this process, watched in the terminal."""

import click

from homegrown.artifacts import Store


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

    from flows.finetune_run import run_finetune
    from homegrown.pipelines import load_finetuning

    given = [
        *([f"base={json.dumps(base)}"] if base is not None else []),
        *([f"instructions.files={json.dumps(files)}"] if files else []),
    ]
    run_finetune(load_finetuning(recipe, [*given, *changes]), store, list(force))
