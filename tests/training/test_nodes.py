"""Two launchers on loopback that train together, as two machines would, beside one launcher with two processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from homegrown.training.job import Nodes
from homegrown.training.nodes import Invitation, interface_of, inviting, local_address, split
from homegrown.training.pretraining import pretrain
from homegrown.util.errors import UserError
from homegrown.util.progress import Progress, silent

_JOIN = """
import os, sys
from homegrown.training.launcher import join
from homegrown.training.nodes import invited
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # as many threads as a process of two on one machine
sys.exit(not join(sys.argv[1], invited(sys.argv[1])))
"""


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def one_processor() -> Any:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


def joining(address: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _JOIN, address], start_new_session=True)


def losses(
    out: Path, corpus: dict[str, Path], tiny: Any, processes: int, nodes: Nodes, progress: Progress = silent
) -> list[float]:
    settings = tiny[1].model_copy(update={"max_steps": 12, "compile": "never"})
    pretrain(
        out,
        **corpus,
        model=tiny[0],
        settings=settings,
        seed=1,
        device="cpu",
        processes=processes,
        nodes=nodes,
        progress=progress,
    )
    found: list[float] = pq.read_table(out / "metrics.parquet")["loss"].to_pylist()
    return found


def test_it_listens_at_one_address_alone(address: str) -> None:
    host, port = split(address)
    with inviting(Nodes(2, address), Invitation("/job.json", "homegrown.training.worker", 1, 2, "cpu")):
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
        everywhere = Path("/proc/net/tcp6").read_text() if Path("/proc/net/tcp6").exists() else ""
        assert f":{port:04X} 00000000000000000000000000000000:0000 0A" not in everywhere
        with pytest.raises(UserError, match=r"^compute\.rendezvous 127\.0\.0\.1:\d+: .*; set it to a free port"):
            inviting(Nodes(2, address), Invitation("", "", 1, 2, "cpu")).__enter__()
    assert interface_of(local_address(f"{host}:{port}")).startswith("lo")
    with pytest.raises(UserError, match="HOST:PORT"):
        split("10.0.0.1")
    with pytest.raises(UserError, match="HOST:PORT"):
        split("10.0.0.1:99999")


@pytest.mark.minutes
def test_two_machines_have_the_losses_of_one_also_after_one_died(
    corpus: dict[str, Path], tiny: Any, tmp_path: Path, address: str, one_processor: None
) -> None:
    nodes = Nodes(2, address)
    first = joining(address)
    second: list[subprocess.Popen[bytes]] = []

    def kill_at_7(done: int, total: int, **_: object) -> None:
        if done >= 7 and not second:
            for process in (first_again.pid, *children(first_again.pid)):
                os.kill(process, signal.SIGKILL)
            second.append(joining(address))

    together = losses(tmp_path / "two", corpus, tiny, 1, nodes)
    assert first.wait(60) == 0
    first_again = joining(address)
    disturbed = losses(tmp_path / "died", corpus, tiny, 1, nodes, kill_at_7)
    assert second and second[0].wait(60) == 0
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    alone = losses(tmp_path / "one", corpus, tiny, 2, Nodes())
    assert together == disturbed == alone
    assert len(alone) == 12


def children(process: int) -> list[int]:
    """Return the process ids of all descendants."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process:
            found += [int(folder.name), *children(int(folder.name))]
    return found
