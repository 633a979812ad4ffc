"""`homegrown export`: a model as other programs run it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from homegrown.artifacts import Store
from homegrown.commands.out import Out

if TYPE_CHECKING:
    from flows.export import Target
    from homegrown.recipe import WeightType


@click.command()
@click.argument("artifact", default="pretrain")
@click.option("--to", required=True, type=click.Choice(["hf", "gguf", "onnx", "ollama"]), help="What it is for.")
@click.option("--type", metavar="TYPE", help="Type of the weights, as in bf16.  [default: f32; of GGUF q8_0]")
@click.option("--out", type=Out(folder=True), help="New folder to copy it to, besides the artifact store.")
@click.pass_obj
def export(store: Store, artifact: str, to: "Target", type: "WeightType | None", out: Path | None) -> None:
    """Write a model as other programs run it; ARTIFACT is pretrain, a version as in pretrain@3, or a key.

    hf: for transformers, vLLM and MLX (f32, bf16, f16); gguf: for llama.cpp and LM Studio, and ollama: the same with
    the command that Ollama takes (q8_0, f32, bf16, f16, q6_k, q5_k_m, q4_k_m, q4_0); onnx: for onnxruntime (f32, int8).
    """
    from flows.export_run import run_export

    run_export(store, artifact, to, type, out)
