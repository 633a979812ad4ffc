"""A trained model, measured by lm-evaluation-harness."""

from typing import Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import ValidationError

from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import run_name
from homegrown.config.compute import ComputeSettings
from homegrown.config.evaluation import HarnessSettings
from homegrown.config.pipelines import explain
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.lookup import find_model
from homegrown.store.manifest import Artifact
from homegrown.util.errors import UserError
from tasks.lm_eval import lm_eval as measure
from tasks.stage import Handle, Run, forget_flow_exception, handle_of, store
from tasks.ui.summary import summarized

STAGE = "lm-eval"


def harness_settings(tasks: list[str] | None, **others: Any) -> HarnessSettings:
    """Return the settings of a measurement; without tasks, the two of held-out text.

    Raises:
        UserError: a value is wrong, or lm-evaluation-harness is not installed.
    """
    from homegrown.harness.heldout_tasks import TASKS
    from homegrown.harness.measure import require

    require()
    names = list(TASKS) if tasks is None else list(dict.fromkeys(tasks))
    try:
        return HarnessSettings(tasks=names, **others)
    except ValidationError as error:
        raise UserError(f"A setting of lm-eval is wrong: {explain(error)}.") from error


def shards_of(place: Store, model: Artifact, settings: HarnessSettings) -> Artifact | None:
    """Return the shards whose test documents the tasks are made of; None where no task needs them.

    Raises:
        UserError: a task needs them and they are not in the store.
    """
    from homegrown.harness.heldout_tasks import TASKS

    if not set(settings.tasks) & set(TASKS):
        return None
    for one in place.lineage(model):
        if one.manifest.stage == "shard":
            return one
    raise UserError(
        f"The held-out text of {model.name} is not in the store; run its recipe with --until shard, or name other "
        "tasks with --tasks."
    )


@flow(
    name="lm-eval",
    flow_run_name=lambda: run_name(STAGE),
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def lm_eval(
    artifact: str = "pretrain",
    tasks: list[str] | None = None,
    include: str | None = None,
    max_documents: int | None = None,
    few_shot: int = 0,
    download: bool = False,
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = "auto",
) -> Handle:
    """Measure a model on tasks of lm-evaluation-harness; a measurement that exists is reused.

    Args:
        artifact: The model: pretrain (its latest version), pretrain@3, finetune@1, or a key.
        tasks: Names of tasks; without them, the two of held-out text.
        include: Folder with tasks as YAML.
        max_documents: Maximum documents per task; by default all.
        few_shot: Answered examples before each question.
        download: Whether the text of tasks may be fetched from the Hugging Face hub.
        device: Where to compute; auto: on a GPU if there is one.
    """
    begin()
    settings = harness_settings(
        tasks, include=include, max_documents=max_documents, few_shot=few_shot, download=download
    )
    model = find_model(store(), artifact)
    shards = shards_of(store(), model, settings)
    inputs = {"pretrain": handle_of(model), **({"shard": handle_of(shards)} if shards else {})}
    recorded = {"name": STAGE, "artifact": model.name, **settings.model_dump(mode="json")}
    with summarized([STAGE]), runs.ongoing(store(), str(flow_run.name), recorded) as log:
        run = Run(seed=0, compute=ComputeSettings(device=device), reach=log.reach)
        made = measure(run, settings=settings, **inputs)
        log.made(STAGE, made.key, made.folder)
    return made
