"""Trainers in this process, or in two that train together, each resumed from the previous one's checkpoint."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from homegrown.finetuning.adaptation import AdaptationJob
from homegrown.finetuning.dpo import DpoJob
from homegrown.finetuning.job import FinetuneJob
from homegrown.training import worker as process
from homegrown.training.callbacks import standard
from homegrown.training.distributed import Worker
from homegrown.training.job import TrainingJob
from homegrown.training.pretraining import Job
from homegrown.training.progress_file import Report
from homegrown.training.stopping import Stop, end_process
from homegrown.training.trainer import Callback, Trainer
from homegrown.util.errors import UserError
from homegrown.util.progress import Progress


@dataclass(frozen=True)
class Leg:
    """A stretch of training in the folder `out`: until `until` steps are done, with changed settings.

    `method` is that of a fine-tuning, where it is not its job's.
    """

    out: str
    until: int = sys.maxsize
    parallel: str = "ddp"
    changes: dict[str, Any] = field(default_factory=dict)
    method: str | None = None


class StopAt(Stop):
    """Requests a stop when a trainer has taken `until` steps."""

    def __init__(self, trainer: Trainer, until: int):
        super().__init__()
        self._trainer, self._until = trainer, until

    @property
    def requested(self) -> bool:
        return self._trainer.state.step >= self._until


AnyJob = Job | FinetuneJob | DpoJob


def run(leg: Leg, job: AnyJob, worker: Worker, *more: Callback) -> Trainer:
    """Train a leg together with all other workers; the leading one writes the model to `out`, as a run does."""
    out = Path(leg.out)
    out.mkdir(exist_ok=True)
    changes: dict[str, Any] = {"training": job.training.model_copy(update=leg.changes), "parallel": leg.parallel}
    if leg.method:
        assert isinstance(job, FinetuneJob)
        changes["finetuning"] = job.finetuning.model_copy(update={"method": leg.method})
    trainer = Trainer(job.model_copy(update=changes), out, worker, Report(out / "progress.jsonl"), standard(*more))
    trainer.start()
    trainer.run(StopAt(trainer, leg.until))
    if worker.leads:
        metrics = [asdict(row) for row in trainer.state.metrics]
        (out / "metrics.json").write_text(json.dumps(metrics))
        trainer.task.keep(trainer.checkpoints, trainer.state.step, out)
    return trainer


def run_here(legs: list[Leg], job: AnyJob, *more: Callback) -> list[Trainer]:
    """Run the legs in this process, the only worker of its group, with `more` callbacks."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    threads = torch.get_num_threads()
    worker = Worker("cpu")
    worker.writers = dist.group.WORLD
    torch.set_num_threads(threads)
    try:
        return [run(leg, job, worker, *more) for leg in legs]
    finally:
        torch.use_deterministic_algorithms(False)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]


@contextmanager
def launched_here() -> Iterator[None]:
    """Let whatever trains do so in this process, the only worker of its group, instead of one started for it.

    A start costs four seconds of processor time; what starts, stops and dies with a real one is tested elsewhere.
    """
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    with (
        mock.patch("homegrown.training.launcher.launch", _launch_here),
        mock.patch.multiple(Worker, join=_join_nobody, leave=lambda worker: None),
        mock.patch.dict(os.environ, ranks),
    ):
        yield
    torch.use_deterministic_algorithms(False)
    if alone:
        dist.destroy_process_group()


_KINDS: dict[str, type[TrainingJob]] = {
    "homegrown.training.worker": Job,
    "homegrown.finetuning.worker": FinetuneJob,
    "homegrown.finetuning.adaptation": AdaptationJob,
    "homegrown.finetuning.dpo": DpoJob,
}


def _launch_here(job: Path, processes: int, progress: Progress, worker: str, *_: Any, **__: Any) -> None:
    process.train(_KINDS[worker].read(job), job.parent, Stop())


def _join_nobody(worker: Worker, _: Path) -> None:
    torch.set_num_threads(1)
    assert dist.group.WORLD
    worker.writers = dist.group.WORLD


def run_in_two(legs: list[Leg], job: AnyJob) -> None:
    """Run the legs in two processes that train together; each writes a UserError of its own to `refusal-RANK`."""
    folder = tempfile.mkdtemp()
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    argument = json.dumps({"job": job.model_dump_json(), "legs": [asdict(leg) for leg in legs], "folder": folder})
    both = [
        subprocess.Popen(
            [sys.executable, __file__, argument], env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    try:
        # Where one has failed, the other would wait for it.
        while not any(process.poll() for process in both) and None in [process.poll() for process in both]:
            time.sleep(0.05)
        assert [process.poll() for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
        shutil.rmtree(folder)


def main() -> None:
    told = json.loads(sys.argv[1])
    job: AnyJob = TypeAdapter(AnyJob).validate_json(told["job"])
    worker = Worker("cpu")
    worker.join(Path(told["folder"]))
    for leg in told["legs"]:
        try:
            run(Leg(**leg), job, worker)
        except UserError as error:
            (Path(leg["out"]) / f"refusal-{worker.rank}").write_text(str(error))
    worker.leave()


if __name__ == "__main__":
    main()
    end_process()
