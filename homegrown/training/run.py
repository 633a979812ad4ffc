"""Runs a training job from its start, or its last checkpoint, to its summary."""

import json
import shutil
from pathlib import Path

from homegrown.training.job import (
    ALONE,
    CHECKPOINTS,
    EXTENDED,
    JOB,
    LOGS,
    PARENT_LOCK,
    PROGRESS,
    STEPS,
    SUMMARY,
    WORKER_LOCK,
    Nodes,
    TrainingJob,
)
from homegrown.util.progress import Metric, Progress

WORKER = "homegrown.training.worker"


def run_job(
    job: TrainingJob, out: Path, processes: int, progress: Progress, worker: str = WORKER, nodes: Nodes = ALONE
) -> dict[str, Metric]:
    """Train the job in the folder `out` with `processes` of the module `worker` on each node; return its summary.

    Raises:
        UserError: a setting does not fit the data or the machine, or training diverges repeatedly.
        RuntimeError: a worker failed for another reason; the message names its log.
    """
    if not (out / SUMMARY).exists():
        from homegrown.training.launcher import launch  # PyTorch is slow to import, and needed only here

        path = job.write(out.resolve())
        launch(path, processes, progress, worker, job.loss_unit, device=job.device, nodes=nodes)
    summary: dict[str, Metric] = json.loads((out / SUMMARY).read_bytes())
    _tidy(out, job)
    # Without the hidden notes of digests, which are not published.
    files = [path for path in (out / CHECKPOINTS).rglob("[!.]*") if path.is_file()]
    return summary | {"checkpoint_megabytes": sum(path.stat().st_size for path in files) / 1e6}


def _tidy(out: Path, job: TrainingJob) -> None:
    """Remove the files that only served the run, which name this machine's paths."""
    from homegrown.training.checkpoints import tidy

    for name in (JOB, PROGRESS, PARENT_LOCK, WORKER_LOCK, STEPS, EXTENDED):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)
    tidy(out / CHECKPOINTS, job.training)
