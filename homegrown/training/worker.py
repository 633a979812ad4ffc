"""The process that the elastic launcher starts for each worker: `python -m homegrown.training.worker JOB`."""

import os
import sys
import threading
from pathlib import Path

from homegrown import locks
from homegrown.errors import UserError, is_disk_full
from homegrown.files import replacing
from homegrown.parallel import spin_less
from homegrown.training.job import DISK_FULL, PARENT_LOCK, PROGRESS, REFUSAL, SUMMARY, WORKER_LOCK, Job


def main(path: Path) -> None:
    """Train the job in `path`; what a user must mend is written to a file instead of raised.

    It is no failure of the process, so that the launcher does not try again.
    """
    prepare_environment()
    out = path.parent
    exit_without_parent(out / PARENT_LOCK)
    try:
        train(Job.read(path), out)
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
    spin_less()


def exit_without_parent(lock: Path) -> None:
    """End this process as soon as the lock that the launching process holds is free.

    So it is when that process is killed, and when it gives up this run. The exit code is that of success, because
    there is nothing to try again.
    """

    def wait() -> None:
        locks.acquire(lock)
        os._exit(0)

    threading.Thread(target=wait, name="exit-without-parent", daemon=True).start()


def train(job: Job, out: Path) -> None:
    """Train, and write the results to `out`; the leading worker waits until no other run works there."""
    from homegrown.training.loop import Trainer
    from homegrown.training.report import Report
    from homegrown.training.results import finish
    from homegrown.training.workers import Worker

    worker = Worker(job.device)
    if worker.leads:
        locks.acquire(out / WORKER_LOCK)
    if (out / SUMMARY).exists():
        return
    trainer = Trainer(job, out, worker)
    report = Report(out / PROGRESS)
    worker.join()
    resumed_from = trainer.resume(report)
    trainer.run(report)
    worker.leave()
    if worker.leads:
        finish(trainer, job, out, resumed_from)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
