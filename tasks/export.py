"""export: a model in a format of other programs."""

import shutil
from pathlib import Path

from homegrown.config.export import ExportFormat, ExportSettings, WeightType
from homegrown.reporting.numbers import file_size
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Stage, Work, artifact_of, stage, store
from tasks.ui.markdown import quoted, table
from tasks.ui.panels import Panel

_DTYPES: dict[WeightType, str] = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}

_PROGRAMS = {
    "hf": [
        "python -c \"from transformers import pipeline; print(pipeline('text-generation', '{folder}')('Once'))\"",
        "vllm serve {folder}",
        "mlx_lm.generate --model {folder} --prompt 'Once'",
    ],
    "gguf": ["llama-server -m {folder}/{weights}", "ollama create my-model -f {folder}/Modelfile"],
    "onnx": ["python -c 'import onnxruntime; onnxruntime.InferenceSession(\"{folder}/{weights}\")'"],
}
"""Commands that run each format; `weights` is its single file, if it has one."""


def programs(artifact: Artifact, folder: Path) -> list[str]:
    """Return the commands that run an export in `folder`."""
    weights = next((name for name in artifact.manifest.files if name.endswith((".gguf", ".onnx"))), "")
    kind = artifact.manifest.settings["settings"]["format"]
    return [command.format(folder=folder, weights=weights) for command in _PROGRAMS[kind]]


def _report(artifact: Artifact) -> str:
    """Show the files and the commands that run the export."""
    rows = [[name, file_size(facts.bytes)] for name, facts in artifact.manifest.files.items()]
    return "\n\n".join([table(["file", "size"], rows), _excerpt(artifact)])


def _excerpt(artifact: Artifact) -> str:
    settings, note = artifact.manifest.settings["settings"], artifact.manifest.metrics.get("note")
    parts = [f"### Exported as {settings['format']}, {settings['type']}", *([str(note)] if note else [])]
    return "\n\n".join([*parts, "Run it with one of:", quoted("\n".join(programs(artifact, artifact.path)))])


_PANEL = Panel(_report, _excerpt)


@stage("export", engine=["homegrown.export.huggingface", "homegrown.export.model_card"], panel=_PANEL)
def to_huggingface(work: Work, settings: ExportSettings, pretrain: Handle, evaluate: Handle | None = None) -> Outcome:
    """Export the model for transformers, vLLM and MLX, with a model card."""
    from homegrown.export.huggingface import write_huggingface
    from homegrown.export.model_card import model_card

    model, evaluation = artifact_of(pretrain), artifact_of(evaluate) if evaluate else None
    dtype = _DTYPES[settings.type]
    card = model_card(model, store().lineage(model), evaluation, dtype)
    write_huggingface(pretrain.path / "model", work.out, dtype, card, progress=work.progress)
    return _outcome(work.out)


@stage("export", engine=["homegrown.export.gguf", "homegrown.export.ollama"], panel=_PANEL)
def to_gguf(work: Work, settings: ExportSettings, pretrain: Handle) -> Outcome:
    """Export the model as a GGUF file with an Ollama Modelfile."""
    from homegrown.export.gguf import write_gguf
    from homegrown.export.ollama import write_modelfile
    from homegrown.tokenizer.chat import load_chat

    model, file = pretrain.path / "model", work.out / f"model-{settings.type}.gguf"
    note = write_gguf(model, file, settings.type)
    write_modelfile(file, work.out / "Modelfile", load_chat(model))
    return _outcome(work.out, note)


@stage("export", engine=["homegrown.export.onnx"], panel=_PANEL)
def to_onnx(work: Work, settings: ExportSettings, pretrain: Handle) -> Outcome:
    """Export the model as ONNX with a KV cache, for onnxruntime."""
    from homegrown.export.onnx import write_onnx

    for unfinished in work.out.glob(".*.tmp/"):  # of a killed process
        shutil.rmtree(unfinished)
    write_onnx(pretrain.path / "model", work.out, settings.type == "int8")
    return _outcome(work.out)


EXPORTS: dict[ExportFormat, Stage] = {"hf": to_huggingface, "gguf": to_gguf, "onnx": to_onnx}
"""The stage `export` by format. Each reaches only its own code, so an edit of one makes no other again."""


def _outcome(out: Path, note: str | None = None) -> Outcome:
    files = [file for file in out.rglob("[!.]*") if file.is_file()]
    return Outcome(1, len(files), "files", {"note": note} if note else {})
