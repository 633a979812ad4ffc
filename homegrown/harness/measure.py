"""The stage `lm-eval`: measures a model by lm-evaluation-harness, through its Hugging Face export."""

import contextlib
import io
import json
import logging
import math
import os
import shutil
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from homegrown.config.evaluation import HarnessSettings
from homegrown.export.huggingface import write_huggingface
from homegrown.harness.heldout_tasks import TASKS, write_tasks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing, write_parquet
from homegrown.util.progress import Metric, Outcome, Progress

_SCHEMA = pa.schema(
    [
        *(("task", pa.string()), ("metric", pa.string()), ("filter", pa.string())),
        *(("value", pa.float64()), ("standard_error", pa.float64()), ("standard_factor", pa.float64())),
        ("documents", pa.int64()),
    ]
)


_PERPLEXITY = "perplexity"

_RESAMPLES = 1_000
"""Of the harness's bootstrap for standard errors without a formula; its default of 100,000 takes minutes."""


@dataclass(frozen=True)
class Score:
    """One metric of one task under the harness's names; `standard_error` is None if the harness has none.

    A perplexity has a `standard_factor` instead, exp of the standard error of its logarithm: the mean cost is about
    normal, and its exponential is not.
    """

    task: str
    metric: str
    filter: str
    value: float
    standard_error: float | None
    standard_factor: float | None
    documents: int


def require() -> None:
    """Raise UserError if the harness is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is not installed; install it: pip install -c constraints.txt -e '.[evals]'."
        )


def measure(
    out: Path, pretrained: Path, shards: Path | None, settings: HarnessSettings, *, device: str, progress: Progress
) -> Outcome:
    """Measure the model of the stage folder `pretrained`; write the table `results` and the harness's `results.json`.

    A task is one of `heldout.TASKS`, made of the test documents in `shards`; one whose YAML file is in the folder
    `include`; or one of the harness's own, whose text must be on this machine unless `download` is set. The export
    that the harness reads is made in `out` and removed at the end. No code of a task's data set runs.

    Raises:
        UserError: the harness is not installed, a task is unknown, or its text is not on this machine.
    """
    require()
    # The libraries read these when they are imported. Without them they ask the hub about local files too.
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "0" if settings.download else "1"
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():  # their warnings and progress bars
        warnings.simplefilter("ignore")
        _silence()
        return _measure(out, pretrained, shards, settings, device, progress)


def _silence() -> None:
    """Stop what the harness and its libraries print by other ways than the standard error of Python."""
    import lm_eval.evaluator
    import torch  # noqa: F401  # sets the levels of its loggers
    from lm_eval.api import metrics

    for name in ("lm_eval", "transformers", "datasets", "torch", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    vars(metrics)["print"] = lambda *_: None  # the name of each metric that is resampled
    vars(lm_eval.evaluator)["get_git_commit_hash"] = lambda: None  # git complains outside a repository


def _measure(
    out: Path, pretrained: Path, shards: Path | None, settings: HarnessSettings, device: str, progress: Progress
) -> Outcome:
    os.environ["DISABLE_MULTIPROC"] = "1"  # the harness would fork this process for its bootstrap, and locks with it
    work = out / "work"
    progress(0, len(settings.tasks))
    write_huggingface(pretrained / "model", work / "export", "float32", None)
    ours = write_tasks(shards, work, [name for name in settings.tasks if name in TASKS]) if shards else []
    named = [name for name in settings.tasks if name not in TASKS]
    found = _evaluate(work / "export", [*ours, *named], settings, device)
    scores = _scores(found)
    shutil.rmtree(work)
    write_parquet(
        out / "results" / "part-00000.parquet", pa.Table.from_pylist([asdict(one) for one in scores], schema=_SCHEMA)
    )
    with replacing(out / "results.json") as temporary:
        temporary.write_text(json.dumps(_plain(found), indent=2, default=str) + "\n", encoding="utf-8")
    metrics: dict[str, Metric] = {f"{one.task}_{one.metric}": one.value for one in scores}
    return Outcome(len(settings.tasks), len(scores), "figures", metrics)


def _evaluate(
    export: Path, tasks: Sequence[str | dict[str, Any]], settings: HarnessSettings, device: str
) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    manager = _task_manager([task for task in tasks if isinstance(task, str)], settings.include)
    try:
        found = simple_evaluate(
            model="hf",
            # Every document started with the BOS token in training.
            model_args={"pretrained": str(export), "dtype": "float32", "add_bos_token": True},
            tasks=list(tasks),
            num_fewshot=settings.few_shot or None,
            batch_size=16,
            device=device,
            limit=settings.max_documents,
            bootstrap_iters=_RESAMPLES,
            task_manager=manager,
            log_samples=True,
        )
    except AssertionError as error:
        raise UserError(
            "A task has an answer that is longer than the context of the model; name others with --tasks."
        ) from error
    except (ConnectionError, FileNotFoundError, ValueError) as error:
        raise UserError(
            f"The text of a task is not on this machine ({_first_line(error)}); add --download to fetch it."
        ) from error
    assert found is not None  # None in worker processes only
    return dict(found)


def _task_manager(names: Sequence[str], include: str | None) -> Any:
    """Return the index of tasks, with the harness's own (thousands, slow to read) only if one of them is named."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include, include_defaults=False)
    if all(manager.match_tasks([name]) for name in names):
        return manager
    manager = TaskManager(include_path=include)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise UserError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}; name one of its own, one in --include-path, "
            f"or {' or '.join(TASKS)}."
        )
    return manager


def _scores(found: dict[str, Any]) -> list[Score]:
    scores = []
    for task, figures in found["results"].items():
        documents = found.get("n-samples", {}).get(task, {}).get("effective", 0)
        for name, value in figures.items():
            metric, comma, by = name.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = figures.get(f"{metric}_stderr,{by}")
                known = float(error) if isinstance(error, int | float) else None
                factor = None
                if metric == _PERPLEXITY:
                    costs = [one[metric] for one in found["samples"][task] if one["filter"] == by]
                    known, factor = None, _standard_factor(costs)
                scores.append(Score(task, metric, by, float(value), known, factor, documents))
    return scores


def _standard_factor(log_likelihoods: Sequence[float]) -> float | None:
    if len(log_likelihoods) < 2:
        return None
    return math.exp(statistics.stdev(log_likelihoods) / math.sqrt(len(log_likelihoods)))


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Return the results without this machine's paths and environment."""
    return {name: found[name] for name in ("results", "versions", "n-shot", "higher_is_better", "n-samples")}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
