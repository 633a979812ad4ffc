"""Real processes killed, stopped and cancelled: what goes on by itself, what the server shows, what is kept."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Cancelling, Crashed, Pending, Running
from prefect.workers.process import ProcessWorker

from flows.local import automation, children
from flows.local.automation import RETRY_KILLED_RUNS, restart_unstarted
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.training.job import PARENT_LOCK
from homegrown.util import locks
from tests.flows.small import small_recipe, write_project
from tests.flows.warm import Command
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

# Training that writes no checkpoint by itself: one that is there was written because it was stopped.
LONG = (
    "compute.workers=1",
    "training.batch_size=16",
    "training.micro_batch_size=16",
    "training.max_steps=60",
    "training.sample_every=60",
    "training.validate_every=60",
    "training.checkpoint_every=1000",
)


def processes(word: str) -> set[int]:
    """Return the processes that have `word` in their command lines."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


class Project:
    """A project folder of its own, its runs in the server, and its training in the file system."""

    def __init__(self, folder: Path, api: str) -> None:
        folder.mkdir(parents=True)
        write_project(folder)
        self.folder = folder
        self.log = folder / "worker.log"
        self.store = Store(folder / "artifacts")
        self._environment = os.environ | {
            "PREFECT_API_URL": api,
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(self.store.root),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    def homegrown(self, *arguments: str, variables: Mapping[str, str] = {}) -> Command:
        """Start the command line in the project's folder, with more environment variables."""
        return Command(self.folder, self._environment | dict(variables), arguments)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Have a worker serve this project's work pool for the block."""
        command = ["prefect", "worker", "start", "--pool", self.folder.name, "--type", "process"]
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the worker stops itself by it
            )
        try:
            yield
        finally:
            children.stop(process, 20)

    def deploy(self) -> UUID:
        """Deploy the flow to the project's work pool."""
        pool = self.folder.name
        with get_client(sync_client=True) as client:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(
                WorkPoolCreate(name=pool, type="process", base_job_template=template), overwrite=True
            )
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

    def trained_from(self, checkpoint: int) -> bool:
        """Say whether training in progress has begun after this step."""
        return self.trained()[:1] > [checkpoint]

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


def cancel(run: UUID) -> None:
    """Do what the UI's button does."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())


def process_of(run: UUID) -> int:
    """Return the process of a deployed run."""
    return int(str(read(run).infrastructure_pid).rsplit(":", 1)[-1])


@contextmanager
def stopped_at_its_next_step(project: Project) -> Iterator[set[int]]:
    """Have training go on only when its run has been told to end in the block; it then stops after a step.

    However fast the machine is, it is not done before. Yields the processes that train.
    """
    wait_for(project.trained)
    (partial,) = project.store.root.glob("pretrain/.*.partial")
    trainers = processes(str(partial))
    assert trainers
    for pid in trainers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield trainers
        wait_for(lambda: locks.is_free(partial / PARENT_LOCK))
    finally:
        for pid in trainers:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def killed_runs_are_retried() -> Iterator[None]:
    """Have the server start killed runs again, as `homegrown up` does, for the block."""
    with get_client(sync_client=True) as client:
        automation = client.create_automation(RETRY_KILLED_RUNS)
        try:
            yield
        finally:
            client.delete_automation(automation)


def newest_run() -> UUID:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0].id


def said(process: Command, *beginnings: str) -> None:
    """Read what a process prints up to a line of one of these beginnings."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginnings):
            return
    pytest.fail(f"never said {' or '.join(beginnings)}:\n{''.join(lines)}")


def assert_stopped_in_a_sentence(process: Command) -> str:
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert "Traceback" not in output, output
    assert "Error: The run was stopped; run the same command again to resume it." in output
    assert ": failed" not in output
    return output


def test_a_killed_deployed_run_is_started_again_and_resumes_from_its_checkpoints(project: Project) -> None:
    recipe = small_recipe(Path("data"), *LONG).model_dump(mode="json")
    changes = [word for change in LONG for word in ("--set", change)]
    # The stages before the training are made by a forked process, which is faster than the deployed run's.
    output, _ = project.homegrown("run", "tiny", "--until", "pack", *changes).communicate()
    made = {artifact.manifest.stage: artifact.path for artifact in project.store.all()}
    assert "pack" in made, output
    deployment = project.deploy()
    with project.worker(), killed_runs_are_retried():
        with get_client(sync_client=True) as client:
            parameters = {"recipe": recipe, "until": "pretrain"}
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        with stopped_at_its_next_step(project) as trainers:
            assert {one.manifest.stage: one.path for one in project.store.all()} == made
            named = read(run).name
            os.kill(process_of(run), signal.SIGKILL)
        reached = wait_for(lambda: not trainers & processes(str(project.folder)) and project.checkpoint())

        # The server starts it again; it resumes from the checkpoint and makes nothing twice.
        wait_for(lambda: project.trained_from(reached))
        with stopped_at_its_next_step(project):
            assert (state(run), read(run).run_count, read(run).name) == ("Running", 2, named)
            wait_for(lambda: task_states(run).get("pretrain") == {"Crashed", "Running"})
            wait_for(lambda: all("Cached" in task_states(run).get(stage, ()) for stage in made))
            cancel(run)
        wait_for(lambda: state(run) == "Cancelled")
        wait_for(project.no_process_is_left)
        wait_for(lambda: no_task_is_left(run))
        cancelled_at = project.checkpoint()
        assert cancelled_at > reached

    # In a terminal it resumes too, to the end.
    (partial,) = project.store.root.glob("pretrain/.*.partial")
    made_in = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    process = project.homegrown("run", "tiny", "--until", "pretrain", *changes)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert {one.manifest.stage: one.path for one in project.store.all()} == made | {"pretrain": made_in}
    summary = json.loads((made_in / "summary.json").read_text())
    assert (summary["resumed_from"], summary["steps"]) == (cancelled_at, 60)
    keys = [record.keys for record in runs.recorded(project.store).values()]
    assert len(keys) == 4
    assert all(one.items() <= keys[-1].items() for one in keys)


def test_a_run_whose_process_never_began_is_scheduled_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(automation, "emit_event", lambda _, resource: heard.append(resource["prefect.resource.id"]))
    deployment = project.deploy()
    with get_client(sync_client=True) as client:
        parameters = {"recipe": small_recipe(Path("data")).model_dump(mode="json")}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        client.set_flow_run_state(run, Pending())
        restart_unstarted(client, ["another pool"])
        restart_unstarted(client, [project.folder.name], timedelta(hours=1))
        automation.watch_runs_in_progress(client)
        assert state(run) == "Pending"
        assert f"prefect.flow-run.{run}" not in heard, "its silence would be taken for a crash, which is not retried"
        restart_unstarted(client, [project.folder.name])
        assert state(run) == "Scheduled"
        client.set_flow_run_state(run, Running(), force=True)
        automation.watch_runs_in_progress(client)
        assert f"prefect.flow-run.{run}" in heard
        client.set_flow_run_state(run, Cancelled(), force=True)


def test_a_run_whose_start_fails_is_scheduled_again_twice(project: Project) -> None:
    deployment = project.deploy()
    with get_client(sync_client=True) as client:
        parameters = {"recipe": small_recipe(Path("data")).model_dump(mode="json")}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        for expected in ("Scheduled", "Scheduled", "Crashed"):
            client.set_flow_run_state(run, Pending(), force=True)
            client.set_flow_run_state(run, Crashed(message="Failed to submit flow run to infrastructure"), force=True)
            restart_unstarted(client, ["another pool"])
            assert state(run) == "Crashed"
            restart_unstarted(client, [project.folder.name])
            assert state(run) == expected


def test_runs_whose_processes_died_with_their_worker_end_or_wait(project: Project) -> None:
    deployment = project.deploy()
    place = (project.folder, project.store.root / ".state" / "runs")
    parameters = {"recipe": small_recipe(Path("data")).model_dump(mode="json")}
    with get_client(sync_client=True) as client:

        def started(*states: State[Any]) -> UUID:
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
            for one in states:
                client.set_flow_run_state(run, one, force=True)
            return run

        begun, cancelling = started(Pending(), Running()), started(Pending(), Running(), Cancelling())
        pending, reported, attempted = started(Pending()), started(Pending()), started(Pending())
        alive = started(Pending(), Running())
        with locks.exclusive(place[1] / str(alive)):
            unbegun = automation.unbegun_runs(client, project.folder)
            assert set(unbegun) == {pending, reported, attempted}
            client.set_flow_run_state(reported, Crashed(message="Process exited with status code: -15."), force=True)
            client.set_flow_run_state(attempted, Running(), force=True)
            client.set_flow_run_state(attempted, Crashed(), force=True)
            automation.end_dead_runs(client, *place, unbegun, local=True)
            assert (automation.unbegun_runs(client, project.folder), state(alive)) == ({}, "Running")
        assert (state(begun), state(cancelling), state(attempted)) == ("Crashed", "Cancelled", "Crashed")
        assert (state(pending), state(reported)) == ("Scheduled", "Scheduled")


def test_runs_of_the_terminal_are_killed_stopped_and_cancelled(project: Project) -> None:
    killed = project.homegrown("run", "tiny", "--until", "dedup")
    said(killed, "ingest: started")
    killed_run = newest_run()
    killed.kill()
    killed.communicate()

    # Two more wait for their turn at the last stage, so that neither can be done, however fast the machine is.
    with locks.exclusive(project.store.root / ".state" / "locks" / "filter.versions"):
        # The next one takes over what the killed one was at, and says of it what it could not say itself.
        stopped = project.homegrown("run", "tiny", "--until", "filter")
        said(stopped, "dedup: started")
        os.killpg(stopped.pid, signal.SIGINT)
        output = assert_stopped_in_a_sentence(stopped)
        stopped_run = newest_run()
        assert state(stopped_run) == "Cancelled"
        ends = [{"Cancelled"}, {"Completed"}] if "dedup: made" in output else [{"Cancelled"}]
        wait_for(lambda: task_states(stopped_run).get("dedup") in ends)
        wait_for(lambda: state(killed_run) == "Crashed")
        wait_for(lambda: no_task_is_left(killed_run))

        # Where no worker looks after a run, it hears by itself that somebody cancels it in the UI.
        cancelled = project.homegrown("run", "tiny", "--until", "filter")
        said(cancelled, "dedup: made", "dedup: cached")
        cancelled_run = newest_run()
        cancel(cancelled_run)
        assert_stopped_in_a_sentence(cancelled)
    assert state(cancelled_run) == "Cancelled"
    wait_for(lambda: no_task_is_left(cancelled_run))


def test_a_run_whose_server_is_killed_keeps_what_it_makes(project: Project, prefect_database: Path) -> None:
    (project.folder / "home").mkdir()
    shutil.copy(prefect_database, project.folder / "home" / "prefect.db")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(project.folder / "home"),
        "PREFECT_CLIENT_MAX_RETRIES": "0",  # five tries to reach a server again take more than a minute
    }
    process = project.homegrown("run", "tiny", "--until", "dedup", variables=server)  # it starts this server
    said(process, "ingest: started")
    (pid,) = processes(f"guarded_server 127.0.0.1 {port}")
    os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert "dedup: made in" in output
    assert process.returncode == 1
    assert "Traceback" not in output, output
    assert "Error: The Prefect server died" in output
    assert [artifact.name for artifact in project.store.all()] == ["dedup@1", "ingest@1"]
