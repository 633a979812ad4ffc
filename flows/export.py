"""The flow `export`: a model in a format of other programs."""

from typing import Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import ValidationError

from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import run_name
from homegrown.config.compute import ComputeSettings
from homegrown.config.export import WEIGHT_TYPES, ExportFormat, ExportSettings, WeightType
from homegrown.config.pipelines import explain
from homegrown.store import runs
from homegrown.store.lookup import find_model
from homegrown.store.manifest import Artifact
from homegrown.util.errors import UserError
from tasks.export import EXPORTS
from tasks.stage import Handle, Run, forget_flow_exception, handle_of, store
from tasks.ui.summary import summarized

Target = Literal["hf", "gguf", "onnx", "ollama"]
_FORMATS: dict[Target, ExportFormat] = {"hf": "hf", "gguf": "gguf", "onnx": "onnx", "ollama": "gguf"}
"""The GGUF artifact contains the Modelfile too, so gguf and ollama share it."""

STAGE = "export"


def export_settings(to: Target, type: WeightType | None) -> ExportSettings:
    """Return the settings of an export; without a type, the format's first.

    Raises:
        UserError: the format does not have the type.
    """
    form = _FORMATS[to]
    try:
        return ExportSettings(format=form, type=WEIGHT_TYPES[form][0] if type is None else type)
    except ValidationError as error:
        raise UserError(f"The weight type (--type, in the UI: type) is wrong: {explain(error)}.") from error


def _run_name() -> str:
    return run_name(f"export-{flow_run.parameters['to']}")


@flow(
    name="export",
    flow_run_name=_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def export(artifact: str = "pretrain", to: Target = "hf", type: WeightType | None = None) -> Handle:
    """Export a model for other programs; an export that exists is reused.

    Args:
        artifact: The model: pretrain (its latest version), pretrain@3, finetune@1, or a key.
        to: hf: transformers, vLLM, MLX; gguf: llama.cpp, LM Studio; ollama: GGUF with a Modelfile; onnx: onnxruntime.
        type: Weight type; by default f32, or q8_0 for GGUF.
    """
    begin()
    settings = export_settings(to, type)
    model = find_model(store(), artifact)
    inputs = {"pretrain": handle_of(model)}  # or another stage with a model
    if settings.format == "hf" and (evaluation := _evaluation(model)):
        inputs["evaluate"] = handle_of(evaluation)
    recorded = {"name": f"export-{to}", "artifact": model.name, **settings.model_dump(mode="json")}
    with summarized([STAGE]), runs.ongoing(store(), str(flow_run.name), recorded) as log:
        run = Run(seed=0, compute=ComputeSettings(), reach=log.reach)
        made = EXPORTS[settings.format](run, settings=settings, **inputs)
        log.made(STAGE, made.key, made.folder)
    return made


def _evaluation(model: Artifact) -> Artifact | None:
    """Return the newest evaluation of a model, for its card."""
    found = [one for one in store().outputs(model) if one.manifest.stage == "evaluate"]
    return max(found, key=lambda one: one.manifest.version, default=None)
