"""`homegrown export`: writes a model in a format of other programs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import Flow, run_flow
from homegrown.cli.options.model import stored_name
from homegrown.cli.options.output import Out
from homegrown.store.artifacts import Store
from homegrown.store.lookup import check_free, copy_out, find_model
from homegrown.store.manifest import Artifact

if TYPE_CHECKING:
    from flows.export import Target
    from homegrown.config.export import WeightType
    from tasks.stage import Handle


@click.command()
@click.argument("artifact", default="pretrain")
@click.option("--to", required=True, type=click.Choice(["hf", "gguf", "onnx", "ollama"]), help="Target format.")
@click.option("--type", metavar="TYPE", help="Weight type, such as bf16; default: f32 (gguf: q8_0).")
@click.option("--out", type=Out(folder=True), help="New folder for a copy of the export.")
@click.pass_obj
def export(store: Store, artifact: str, to: "Target", type: "WeightType | None", out: Path | None) -> None:
    """Export a model for other programs.

    ARTIFACT is a stage, a version such as pretrain@3, a key, or starter.

    \b
    hf      transformers, vLLM, MLX; f32, bf16, f16
    gguf    llama.cpp, LM Studio; q8_0, f32, bf16, f16, q6_k, q5_k_m, q4_k_m, q4_0
    ollama  gguf with a Modelfile
    onnx    onnxruntime; f32, int8
    """
    if out:
        check_free(out)
    artifact = stored_name(store, artifact)
    find_model(store, artifact)
    console = Console(highlight=False, soft_wrap=True)

    def prepare() -> "Flow[Handle]":
        from flows.export import STAGE, export, export_settings

        export_settings(to, type)
        return [STAGE], lambda: export(artifact, to, type)

    exported = _made(store, artifact, to, type) if out and not os.access(store.root, os.W_OK) else None
    exported = exported or store.resolve(run_flow(store, console, prepare).name)
    from tasks.export import programs

    if out:
        copy_out(exported, out)
    console.print(f"\n{exported.name} is in {out or exported.path}; run it with one of:")
    for command in programs(exported, out or exported.path):
        console.print(f"  {command}", markup=False)


def _made(store: Store, artifact: str, to: "Target", type: "WeightType | None") -> Artifact | None:
    """Return the newest export like this one in a store that cannot be written; None if it has none."""
    from flows.export import STAGE, export_settings

    settings = export_settings(to, type).model_dump(mode="json")
    found = [
        one
        for one in store.outputs(find_model(store, artifact))
        if one.manifest.stage == STAGE and one.manifest.settings["settings"] == settings and not store.damage(one)
    ]
    return max(found, key=lambda one: one.manifest.version, default=None)
