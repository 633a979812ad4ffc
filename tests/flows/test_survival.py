"""Real processes killed, stopped and cancelled: what goes on by itself, what the server shows, what is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.workers.process import ProcessWorker

from homegrown.artifacts import Store
from tests.flows.small import write_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG = ("training.max_steps=4000", "training.sample_every=4000", "training.validate_every=4000")


def processes(word: str) -> set[int]:
    """Return the processes that have `word` in their command lines."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in file.read_text(errors="replace"):
                found.add(int(file.parent.name))
        except OSError:
            continue
    return found


def wait_for(what: Callable[[], Any]) -> Any:
    """Return the first true answer; the test's time-out bounds the wait."""
    while not (answer := what()):
        time.sleep(0.2)
    return answer


class Project:
    """A project folder of its own, its runs in the server, and its training in the file system."""

    def __init__(self, folder: Path, api: str) -> None:
        folder.mkdir(parents=True)
        write_project(folder)
        self.folder = folder
        self.store = Store(folder / "artifacts")
        self._environment = os.environ | {
            "PREFECT_API_URL": api,
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(self.store.root),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    def start(self, module: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start `python -m module arguments…` in the project's folder, with more environment variables."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self._environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def homegrown(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start the command line."""
        return self.start("homegrown.cli", *arguments)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Have a worker serve this project's work pool for the block."""
        process = self.start("prefect", "worker", "start", "--pool", self.folder.name, "--type", "process")
        try:
            yield
        finally:
            process.terminate()
            process.communicate()

    def deploy(self) -> UUID:
        """Deploy the flow to the project's work pool."""
        pool = self.folder.name
        with get_client(sync_client=True) as client:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
            return client.create_deployment(
                client.create_flow_from_name("pretrain"),
                pool,
                entrypoint="flows.pretrain.pretrain",
                work_pool_name=pool,
                path=str(self.folder),
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(self.folder)}}],
            )

    def trained(self) -> list[int]:
        """Return the steps of training in progress that have reported themselves, in this attempt."""
        files = list(self.store.root.glob("pretrain/.*.partial/progress.jsonl"))
        lines = files[0].read_text().split("\n")[:-1] if files else []
        return [json.loads(line)["done"] for line in lines]

    def checkpoint(self) -> int:
        """Return the step of the newest checkpoint of training in progress."""
        found = self.store.root.glob("pretrain/.*.partial/checkpoints/step-*")
        return max((int(path.name.removeprefix("step-")) for path in found), default=0)

    def no_process_is_left(self) -> bool:
        """Say whether nothing works in the project's folder any more."""
        return not processes(str(self.folder / "artifacts"))


@pytest.fixture
def project(prefect_server: str, tmp_path: Path) -> Project:
    return Project(tmp_path / "project", prefect_server)


def read(run: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)


def state(run: UUID) -> str:
    return str(read(run).state_name)


def task_states(run: UUID) -> dict[str, set[str]]:
    """Return the states of a run's task runs, by stage."""
    found: dict[str, set[str]] = {}
    with get_client(sync_client=True) as client:
        for one in client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}})):
            found.setdefault(one.name.rsplit("-", 1)[0], set()).add(str(one.state_name))
    return found


def no_task_is_left(run: UUID) -> bool:
    """Say whether the server shows every task run of a run as ended."""
    states = {one for states in task_states(run).values() for one in states}
    return states <= {"Completed", "Cached", "Cancelled", "Crashed"}


def newest_run() -> UUID:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0].id


def said(process: "subprocess.Popen[str]", beginning: str) -> None:
    """Read what a process prints up to a line of this beginning."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return
    pytest.fail(f"never said {beginning!r}:\n{''.join(lines)}")


def assert_stopped_in_a_sentence(process: "subprocess.Popen[str]") -> None:
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in output, output
    assert "Error: The run was stopped; the same command goes on from where it was." in output


def test_of_two_runs_at_once_one_is_killed_and_the_other_stopped_and_nothing_is_made_twice(project: Project) -> None:
    command = ("run", "tiny", "--until", "dedup")
    killed = project.homegrown(*command)
    said(killed, "ingest: started")
    killed_run = newest_run()
    waiting = project.homegrown(*command)
    said(waiting, "Watch it")
    killed.kill()
    killed.communicate()

    # The lock of the killed one holds nobody up; and the new run says of it what it could not say itself.
    said(waiting, "dedup: started")
    assert state(killed_run) == "Crashed"
    assert no_task_is_left(killed_run)
    stopped_run = newest_run()
    os.killpg(waiting.pid, signal.SIGINT)
    assert_stopped_in_a_sentence(waiting)
    assert state(stopped_run) == "Cancelled"
    assert no_task_is_left(stopped_run)

    # Two more share the stage that is still to make.
    both = [project.homegrown(*command) for _ in range(2)]
    output = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert sorted("dedup: made in" in text for text in output) == [False, True], output
    assert [artifact.name for artifact in project.store.all()] == ["dedup@1", "ingest@1"]
