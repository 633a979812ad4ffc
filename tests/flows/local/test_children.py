"""Child processes end with their parent, even by `kill -9`, and orphans are found and ended: with real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.local import children
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for what only Linux does")

SLEEP = "import time; time.sleep(300)"
PARENT = f"""
import sys, time
from pathlib import Path
from flows.local import children
child = children.start(["-c", {SLEEP!r}], Path(sys.argv[1]) / "log")
Path(sys.argv[1], "child").write_text(str(child.pid))
time.sleep(300)
"""
FORKS = f"""
import subprocess, sys
quiet = subprocess.DEVNULL
print(subprocess.Popen([sys.executable, "-c", {SLEEP!r}], stdout=quiet, stderr=quiet, start_new_session=True).pid)
"""

ADOPTS = f"""
import os, psutil, subprocess, sys
from flows.local.children import adopt_orphans, end_children

adopt_orphans()
kept = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
orphan = int(subprocess.run([sys.executable, "-c", {FORKS!r}], check=True, capture_output=True, text=True).stdout)
assert psutil.pid_exists(orphan)
assert end_children(os.getpid(), 60, besides=[kept.pid])
assert not psutil.pid_exists(orphan)
assert kept.poll() is None
assert not end_children(os.getpid(), 60, besides=[kept.pid])
kept.kill()
"""


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    wait_for(lambda: tmp_path.joinpath("child").exists() and tmp_path.joinpath("child").read_text() != "")
    child = int(tmp_path.joinpath("child").read_text())
    assert runs(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not runs(child))


def test_a_stopped_child_is_gone_even_if_it_will_not_hear(tmp_path: Path) -> None:
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); {SLEEP}"
    deaf = children.start(["-c", program], tmp_path / "log")
    wait_for(lambda: tmp_path.joinpath("log").read_text() == "1\n")
    children.stop(deaf, 0.2)
    assert deaf.returncode == -signal.SIGKILL


def test_a_child_hears_sigint_where_this_process_ignores_it(tmp_path: Path) -> None:
    """As in the background of a shell; Prefect's worker stops by a SIGINT that it sends itself."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = children.start(["-c", SLEEP], tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, ignored)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) != 0


def test_a_child_that_stands_still_ends_as_others_do(tmp_path: Path) -> None:
    child = children.start(["-c", SLEEP], tmp_path / "log")
    child.send_signal(signal.SIGSTOP)
    children.stop(child, 60)
    assert child.returncode == -signal.SIGTERM


def test_orphans_are_adopted_and_ended() -> None:
    """In a process of its own: adopting would last as long as the tests' process."""
    done = subprocess.run([sys.executable, "-c", ADOPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
