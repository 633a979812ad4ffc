"""Two attempts at one run, where the first was taken for dead too early."""

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from flows import lifetime
from homegrown.store.artifacts import Store
from homegrown.util import locks
from tests.waiting import wait_for

HOLD = """
import sys; from pathlib import Path; from homegrown.util import locks
assert locks.try_acquire(Path(sys.argv[1])); print("held", flush=True); sys.stdin.read()
"""


def attempt(store: Store, run: UUID) -> threading.Thread:
    thread = threading.Thread(target=lifetime.watch_over, args=(store, run), daemon=True)
    thread.start()
    return thread


def test_an_attempt_waits_for_the_one_before_that_is_still_alive(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(**_: Any) -> Any:
        raise httpx.ConnectError("no server here")

    monkeypatch.setattr(lifetime, "get_client", away)
    monkeypatch.setattr(lifetime, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(lifetime, "_ENDING_SECONDS", 0.1)
    run = uuid4()
    lock: Path = store.root / ".state" / "runs" / str(run)
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        second = attempt(store, run)
        wait_for(lambda: "still runs" in caplog.text)
        assert second.is_alive()
        first.kill()
    second.join()
    assert not locks.is_free(lock)
    attempt(store, run).join()  # the same process again, as Prefect's own retries have it: it waits for nobody
