"""The process of each worker, which the elastic launcher starts: `python -m homegrown.training.worker JOB`."""

import gc
import importlib
import os
import socket
import sys
from pathlib import Path

from homegrown.training.job import (
    DISK_FULL,
    MACHINE_LOCK,
    PARENT_LOCK,
    PROGRESS,
    REFUSAL,
    SUMMARY,
    WORKER_LOCK,
    TrainingJob,
)
from homegrown.training.pretraining import Job
from homegrown.training.stopping import Stop, end_process
from homegrown.util import locks
from homegrown.util.errors import UserError, is_disk_full
from homegrown.util.files import replacing
from homegrown.util.parallel import spin_less


def main(path: Path, kind: type[TrainingJob] = Job) -> None:
    """Train the job in `path`, one of `kind`; write a UserError to a file instead of raising it.

    The process then exits with success, so that the launcher does not restart it.
    """
    prepare_environment()
    out, stop = path.parent, Stop()
    stop.on_signals()
    if joined := os.environ.get(MACHINE_LOCK):
        stop.die_without(Path(joined))
    else:
        stop.without_parent(out / PARENT_LOCK)
    # What the imports of `train` make stays; looking through it for garbage meanwhile takes a quarter of their time.
    gc.disable()
    importlib.import_module("homegrown.training.results")
    gc.freeze()
    gc.enable()
    try:
        train(kind.read(path), out, stop)
    except UserError as error:
        with replacing(out / REFUSAL) as temporary:
            temporary.write_text(str(error))
    except Exception as error:
        if not is_disk_full(error):
            raise
        # A full disk may still take an empty file.
        (out / DISK_FULL).touch()


def prepare_environment() -> None:
    """Set the variables of the environment that PyTorch and OpenMP read only when they are imported."""
    # Huge pages for PyTorch's buffers: 5-10% faster on 2 cores with a model of 4 million parameters.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # operators that an Apple GPU lacks run on the CPU
    os.environ["OMP_DYNAMIC"] = "FALSE"  # threads by the machine's load: other bits each time
    # Workers are on one machine; by default they listen at the address of the host's name.
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    spin_less()


def train(job: TrainingJob, out: Path, stop: Stop) -> None:
    """Train, and write the results to `out`; the leading worker waits until no other run works there.

    After a stop there are no results yet, but the checkpoints are in `out`.
    """
    from homegrown.training.callbacks import standard
    from homegrown.training.distributed import Worker
    from homegrown.training.progress_file import Report
    from homegrown.training.results import finish
    from homegrown.training.trainer import Trainer

    worker = Worker(job.device)
    if worker.leads:
        locks.acquire(out / WORKER_LOCK)
    if (out / SUMMARY).exists():
        return
    trainer = Trainer(job, out, worker, Report(out / PROGRESS), standard())
    worker.join(out)
    resumed_from = trainer.start()
    trainer.run(stop)
    worker.leave()
    if worker.leads and trainer.finished:
        finish(trainer, out, resumed_from)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process()
