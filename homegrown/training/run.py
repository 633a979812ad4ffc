"""Runs a training job from its start, or its last checkpoint, to its summary."""

import json
import shutil
from pathlib import Path

from homegrown.training.job import (
    CHECKPOINTS,
    JOB,
    LOGS,
    PARENT_LOCK,
    PROGRESS,
    STEPS,
    SUMMARY,
    WORKER_LOCK,
    TrainingJob,
)
from homegrown.util.progress import Metric, Progress

WORKER = "homegrown.training.worker"


def run_job(job: TrainingJob, out: Path, processes: int, progress: Progress, worker: str = WORKER) -> dict[str, Metric]:
    """Train the job in the folder `out` with `processes` of the module `worker`; return its summary.

    Raises:
        UserError: a setting does not fit the data or the machine, or training diverges repeatedly.
        RuntimeError: a worker failed for another reason; the message names its log.
    """
    if not (out / SUMMARY).exists():
        from homegrown.training.launcher import launch  # PyTorch is slow to import, and needed only here

        launch(job.write(out.resolve()), processes, progress, worker)
    summary: dict[str, Metric] = json.loads((out / SUMMARY).read_bytes())
    _tidy(out)
    return summary


def _tidy(out: Path) -> None:
    """Remove the files that only served the run, which name this machine's paths."""
    for name in (JOB, PROGRESS, PARENT_LOCK, WORKER_LOCK, STEPS):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)
    newest = max((out / CHECKPOINTS).glob("step-*"))
    for path in (out / CHECKPOINTS).iterdir():
        if path != newest:
            shutil.rmtree(path)
