"""A real S3 server and a real Dask cluster, both on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_environment(s3_server: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The address of an empty bucket of this test's own."""
    import s3fs

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.nodeid))}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(f"s3://{name}")
    return f"s3://{name}"


def _running(dask_worker: Any) -> int:
    return len(dask_worker.state.all_running_tasks)


class Cluster:
    """A scheduler and workers without nannies, so that a killed one stays dead; all see every folder but one."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = os.environ | environment | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(folder)}
        self._environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"
        self._environment["DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING"] = "False"
        self.hidden = folder / "hidden"
        self.hidden.mkdir()
        self.hides = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
        self.address = ""
        self._file = folder / "scheduler.json"
        arguments = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self._file))
        self._processes = [self._start("scheduler", *arguments)]

    def _start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", kind, "--no-dashboard", *arguments]
        if kind == "worker" and self.hides:
            command = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {self.hidden} && exec "$@"', "sh", *command]
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=self._environment)

    def wait(self) -> None:
        """Wait until the scheduler says its address."""
        end = time.monotonic() + 240
        while not self._file.exists() or not self._file.stat().st_size:
            assert self._processes[0].poll() is None and time.monotonic() < end, "the scheduler did not start"
            time.sleep(0.1)
        self.address = json.loads(self._file.read_text())["address"]

    def have_workers(self, count: int = 2) -> None:
        """Start workers until that many are alive."""
        scheduler, *workers = self._processes
        self._processes = [scheduler, *(worker for worker in workers if worker.poll() is None)]
        while len(self._processes) <= count:
            self._add_worker()

    def _add_worker(self) -> None:
        arguments = ("--scheduler-file", str(self._file), "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
        self._processes.append(self._start("worker", *arguments))

    def wait_for_workers(self, count: int) -> None:
        """Wait until the scheduler knows that many workers; on a busy machine they start slowly."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=600)

    def wait_for_running_shards(self) -> None:
        """Wait for the shards of a stopped run: nobody waits for them, and they still write."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            while any(client.run(_running).values()):
                time.sleep(0.2)

    @property
    def scheduler(self) -> int:
        return self._processes[0].pid

    def kill_worker(self) -> None:
        """Kill the worker that was added last, with SIGKILL."""
        self._processes[-1].send_signal(signal.SIGKILL)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_environment: dict[str, str]) -> Iterator[Cluster]:
    """A scheduler with two workers."""
    running = Cluster(tmp_path_factory.mktemp("dask"), s3_environment)
    running.have_workers()
    try:
        running.wait()
        yield running
    finally:
        running.close()
