"""Starts the workers through PyTorch's elastic launcher, and relays their progress."""

import errno
import logging
import os
import sys
import tempfile
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from homegrown.training.curve import LiveCurve
from homegrown.training.job import (
    ALONE,
    CHECKPOINTS,
    CURVE,
    DISK_FULL,
    LOGS,
    MACHINE_LOCK,
    NO_TCP_STORE,
    PARENT_LOCK,
    PROGRESS,
    REFUSAL,
    STORE,
    SUMMARY,
    Nodes,
)
from homegrown.training.journal import read_steps
from homegrown.training.nodes import Invitation, environment, inviting, local_address, meeting
from homegrown.training.progress_file import Relay
from homegrown.training.stopping import GRACE_SECONDS
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.progress import Progress

_RESTARTS = 3
_POLL_SECONDS = 0.2
_TOGETHER = {"store_type": "tcp", "is_host": False, "join_timeout": 24 * 3600, "keep_alive_interval": 2}
"""Configuration of the rendezvous of several machines: the run waits for a day for one that does not come."""
_EXIT_SECONDS = 5.0  # for the agent to see that its workers have exited


def launch(
    job: Path,
    processes: int,
    progress: Progress,
    worker: str,
    loss_unit: str,
    *,
    device: str = "cpu",
    nodes: Nodes = ALONE,
) -> None:
    """Run `processes` of the module `worker` on each of the `nodes` until they exit; restart all if one dies.

    With several nodes it waits for those that join at their address.

    `loss_unit` is the unit of the loss in the curve.

    The agent runs in a thread: it leaves this process's signal handlers alone, and `progress` is called in the caller's
    thread. When this process dies or gives up, its lock becomes free: the workers finish their step, write a checkpoint
    and exit. They also do when a signal raises an exception in this function (Prefect's cancelling, Ctrl-C), which then
    waits for them.

    Raises:
        UserError: the workers refuse the job, or a signal to one of them stopped it.
        OSError: the disk is full (ENOSPC).
        RuntimeError: a worker failed repeatedly; names its log.
    """
    out = job.parent
    for left in (out / PROGRESS, out / REFUSAL, out / DISK_FULL, *out.glob(f"{STORE}*")):
        left.unlink(missing_ok=True)
    relay = Relay(out / PROGRESS)
    curve = LiveCurve(out / CURVE, partial(read_steps, out), loss_unit)
    agent = _Agent(job, processes, worker, nodes)
    try:
        with ExitStack() as stack:
            if nodes.count > 1:
                stack.enter_context(inviting(nodes, Invitation(str(job), worker, processes, nodes.count, device)))
                stack.enter_context(environment(meeting(nodes.address)))
            stack.callback(_let_end, agent)
            stack.enter_context(locks.exclusive(out / PARENT_LOCK))
            agent.start()
            # When one worker refuses, the others wait for it until the lock is free.
            while not agent.ended.wait(_POLL_SECONDS) and not (out / REFUSAL).exists():
                for done, total, metrics in relay.new():
                    progress(done, total, **metrics)
                curve.draw()
    finally:
        for left in out.glob(f"{STORE}*"):
            left.unlink(missing_ok=True)
    for done, total, metrics in relay.new():
        progress(done, total, **metrics)
    if (out / REFUSAL).exists():
        raise UserError((out / REFUSAL).read_text())
    if (out / DISK_FULL).exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    if agent.error is not None:
        raise RuntimeError(f"training failed; see {_last_log(out / LOGS)}") from agent.error
    if not (out / SUMMARY).exists():
        kept = max((out / CHECKPOINTS).glob("step-*"), default=None)
        where = f"after step {int(kept.name.removeprefix('step-'))}" if kept else "before its first checkpoint"
        raise UserError(f"A signal stopped training {where}; run it again to resume there.")


def join(address: str, invitation: Invitation) -> bool:
    """Run the workers of an invitation beside those of the machine at `address`; return whether all of them exited.

    When this process dies or is interrupted, its workers die: those of the other machines wait for it to come back.
    """
    with tempfile.TemporaryDirectory(prefix="homegrown-join-") as name, ExitStack() as stack:
        lock, nodes = Path(name) / PARENT_LOCK, Nodes(invitation.nodes, address)
        stack.enter_context(environment({**meeting(address), MACHINE_LOCK: str(lock)}))
        agent = _Agent(Path(invitation.job), invitation.processes, invitation.worker, nodes, Path(name))
        stack.callback(_let_end, agent)
        stack.enter_context(locks.exclusive(lock))
        agent.start()
        while not agent.ended.wait(_POLL_SECONDS):
            pass
    return agent.error is None


def _let_end(agent: "_Agent") -> None:
    """Wait until the workers have exited, whose lock is free."""
    if agent.ident is not None:
        agent.ended.wait(GRACE_SECONDS + _EXIT_SECONDS)


class _Agent(threading.Thread):
    """Wait for `ended` instead of `join`, which believes that a thread has ended when a signal interrupts it (3.11)."""

    def __init__(self, job: Path, processes: int, worker: str, nodes: Nodes, logs: Path | None = None):
        super().__init__(name="elastic-agent", daemon=True)
        self.error: Exception | None = None
        self.ended = threading.Event()
        self._arguments = ["-u", "-m", worker, str(job)]
        self._config = LaunchConfig(
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            nproc_per_node=processes,
            run_id="pretrain",
            # A file, where a store over TCP would listen on all interfaces and take a pickle from whoever connects.
            rdzv_backend="c10d",
            rdzv_endpoint=str(job.parent / f"{STORE}agent") if nodes.count == 1 else nodes.address,
            rdzv_configs={"store_type": "file"} if nodes.count == 1 else _TOGETHER,
            local_addr="127.0.0.1" if nodes.count == 1 else local_address(nodes.address),
            max_restarts=_RESTARTS,
            logs_specs=DefaultLogsSpecs(log_dir=str((logs or job.parent) / LOGS), redirects=Std.ALL),
        )

    def run(self) -> None:
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        os.environ[NO_TCP_STORE] = "1"
        try:
            elastic_launch(self._config, sys.executable)(*self._arguments)
        except (ChildFailedError, RendezvousError, RuntimeError, OSError) as error:
            self.error = error
        finally:
            self.ended.set()


def _last_log(folder: Path) -> Path:
    """Return the newest standard-error log that is not empty, or the folder of all."""
    logs = [path for path in folder.rglob("stderr.log") if path.stat().st_size]
    return max(logs, key=lambda path: path.stat().st_mtime_ns, default=folder)
