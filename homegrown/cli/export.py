"""`homegrown export`: a model as other programs run it."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from homegrown.cli.local_run import interruption_reported, prepare, uncollected
from homegrown.cli.options.output import Out
from homegrown.store.artifacts import Store
from homegrown.store.lookup import check_free, copy_out, find_model

if TYPE_CHECKING:
    from flows.export import Target
    from homegrown.config.recipe import WeightType


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

    run_export(store, artifact, to, type, out)


def run_export(store: Store, name: str, to: "Target", type: "WeightType | None", out: Path | None) -> None:
    """Export the model `name`, say where it lies and what runs it, and copy it to the folder `out` if there is one.

    Raises:
        UserError: there is no such model or type, `out` is taken, or the model cannot be exported so.
    """
    prepare(store)
    if out:
        check_free(out)
    find_model(store, name)
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as services:
        with console.status("starting"):
            with uncollected():
                from flows.export import STAGE, export, export_settings
                from flows.local import server
                from homegrown.cli.live_display import live_display
                from tasks.export import programs

            export_settings(to, type)
            api = services.enter_context(server.running(store.root / ".state" / "server.log"))
        console.print(f"Watch it at {api.removesuffix('/api')}/runs\n")
        with interruption_reported(), live_display(console, [STAGE]):
            made = export(name, to, type)
    artifact = store.resolve(f"{made.stage}@{made.folder.split('-')[0]}")
    if out:
        copy_out(artifact, out)
    console.print(f"\n{artifact.name} lies in {out or artifact.path}; what runs it, in one way or another:")
    for command in programs(artifact, out or artifact.path):
        console.print(f"  {command}", markup=False)
