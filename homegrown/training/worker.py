"""The process that the elastic launcher starts for each worker: `python -m homegrown.training.worker JOB`."""

import os
import socket
import sys
from pathlib import Path

from homegrown.training.job import DISK_FULL, PARENT_LOCK, PROGRESS, REFUSAL, SUMMARY, WORKER_LOCK, TrainingJob
from homegrown.training.pretraining import Job
from homegrown.training.stopping import Stop, end_process
from homegrown.util import locks
from homegrown.util.errors import UserError, is_disk_full
from homegrown.util.files import replacing
from homegrown.util.parallel import spin_less


def main(path: Path, kind: type[TrainingJob] = Job) -> None:
    """Train the job in `path`, one of `kind`; what a user must mend is written to a file instead of raised.

    It is no failure of the process, so that the launcher does not try again.
    """
    prepare_environment()
    out, stop = path.parent, Stop()
    stop.on_signals()
    stop.without_parent(out / PARENT_LOCK)
    try:
        train(kind.read(path), out, stop)
    except UserError as error:
        with replacing(out / REFUSAL) as temporary:
            temporary.write_text(str(error))
    except Exception as error:
        if not is_disk_full(error):
            raise
        # An empty file is all that such a disk may still have room for.
        (out / DISK_FULL).touch()


def prepare_environment() -> None:
    """Set what PyTorch and OpenMP read from the environment only once, when they are imported."""
    # Huge pages for PyTorch's buffers: 5-10% faster on 2 cores with a model of 4 million parameters.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Workers meet on this machine alone: by default they listen where the host's name leads.
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    spin_less()


def train(job: TrainingJob, out: Path, stop: Stop) -> None:
    """Train, and write the results to `out`; the leading worker waits until no other run works there.

    Without results it returns when `stop` was wished before the end; the checkpoints are then in `out`.
    """
    from homegrown.training.distributed import Worker
    from homegrown.training.progress_file import Report
    from homegrown.training.results import finish
    from homegrown.training.trainer import Trainer

    worker = Worker(job.device)
    if worker.leads:
        locks.acquire(out / WORKER_LOCK)
    if (out / SUMMARY).exists():
        return
    trainer = Trainer(job, out, worker)
    report = Report(out / PROGRESS)
    worker.join(out)
    resumed_from = trainer.start(report)
    trainer.run(report, stop)
    worker.leave()
    if worker.leads and trainer.finished:
        finish(trainer, out, resumed_from)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process()
