"""`homegrown up`, really: what the UI asks, a run from its deployment, a killed worker, and nothing left behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.util import locks
from homegrown.util.users import user_name
from tests.flows.local.project import Project, Ui, until, write_deployments
from tests.flows.small import small_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for what only Linux does"),
]


def test_up_serves_the_ui_and_leaves_nothing(project: Project) -> None:
    log = project.folder / "up.log"
    with log.open("w") as output:
        up = project.homegrown("up", stdout=output, stderr=subprocess.STDOUT)
    until(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll() is not None, "up is ready")
    assert up.poll() is None, log.read_text()
    assert project.origin in log.read_text()
    ui = Ui(project.origin)

    _the_settings_are_closed(ui, project.origin)
    _a_run_from_the_deployment(ui, project)
    _what_the_pages_ask(ui)
    refusal = f"Error: `homegrown up` already runs for {project.folder}/artifacts;"
    assert _answer("up").startswith(refusal)

    # Both runs wait for their turn to make something, however fast the machine is.
    with locks.exclusive(project.folder / "artifacts" / ".state" / "locks" / "ingest.versions"):
        second = _a_killed_worker(ui, project, log)
        waiting = ui.start(force=["ingest"])  # for its turn: a machine executes one run at a time
        up.send_signal(signal.SIGTERM)
        assert up.wait() == 0, log.read_text()
    assert project.processes() == {}
    with sqlite3.connect(project.home / "prefect.db") as database:
        states = dict(database.execute("SELECT id, state_type FROM flow_run"))
    assert (states[second], states[waiting]) == ("CRASHED", "SCHEDULED")
    assert _answer("status").startswith("No Prefect server answers at " + project.origin)


def _a_killed_worker(ui: "Ui", project: Project, log: Path) -> str:
    """It takes its run with it, another takes its place, and starts the run again, which is returned."""
    busy = ui.start(force=["ingest"])
    until(lambda: _has_begun(ui, busy), "the second run goes on")
    engines = [pid for pid, command in project.processes().items() if "prefect.engine" in command]
    (worker,) = (pid for pid, command in project.processes().items() if "worker start" in command)
    os.kill(worker, signal.SIGKILL)
    until(lambda: "The worker ended (killed by signal 9)" in log.read_text(), "up says so")
    until(lambda: not set(engines) & set(project.processes()), "its run has ended")
    until(lambda: any("worker start" in command for command in project.processes().values()), "a new worker")
    until(lambda: ui.get(f"/flow_runs/{busy}")["run_count"] == 2, "the second run goes on again")
    assert log.read_text().count("was killed; it resumes.") == 1
    return busy


def _has_begun(ui: "Ui", run: str) -> bool:
    return "summary" in ui.keys({"flow_run_id": {"any_": [run]}})


def _answer(*arguments: str) -> str:
    """Return what a command of this process's own prints."""
    return CliRunner().invoke(cli, list(arguments)).output


def _the_settings_are_closed(ui: Ui, origin: str) -> None:
    settings = httpx.get(f"{origin}/ui-settings", timeout=60).json()
    assert settings["csrf_enabled"]
    assert ui.client.post("/flow_runs/filter", json={}).status_code == 403
    foreign = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in ui.client.options("/flow_runs/filter", headers=foreign).headers
    assert ui.get("/admin/settings")["server"]["analytics_enabled"] is False


def _a_run_from_the_deployment(ui: Ui, project: Project) -> None:
    run = ui.start(changes=["ingest.shard_mb=0.1"])
    until(lambda: ui.state(run) not in ("SCHEDULED", "PENDING"), "the run begins")
    said = json.loads(_answer("status", "--json"))
    assert (said["answers"], said["deployments"]) == (True, ["pretrain/tiny"])
    assert [worker["online"] for worker in said["workers"]] == [True]
    assert len(said["in_progress"]) + len(said["recent"]) == 1
    until(lambda: ui.state(run) not in ("RUNNING", "PENDING"), "the run ends")
    assert ui.state(run) == "COMPLETED"
    (record,) = runs.recorded(Store(project.folder / "artifacts")).values()
    assert record.author == user_name()
    assert f"author:{user_name()}" in ui.get(f"/flow_runs/{run}")["tags"]
    assert [one["author"] for one in json.loads(_answer("status", "--json"))["recent"]] == [user_name()]
    assert record.recipe == small_recipe(Path("data"), "ingest.shard_mb=0.1").model_dump(mode="json")

    # Task runs, logs and artifacts reach the database a moment after the run has told of them.
    of_run = {"id": {"any_": [run]}}
    until(lambda: ui.post("/task_runs/count", flow_runs=of_run) == 1, "the task run is there")
    graph = ui.get(f"/flow_runs/{run}/graph-v2")
    assert sorted(node["label"].split("-")[0] for _, node in graph["nodes"]) == ["ingest"]
    by_run = {"flow_run_id": {"any_": [run]}}
    until(lambda: {"ingest-report", "summary"} <= set(ui.keys(by_run)), "the pages of the stage and the run are there")
    until(lambda: any("ingest runs in" in line for line in ui.logs(by_run)), "the log is there")


def _what_the_pages_ask(ui: Ui) -> None:
    (run,) = ui.post("/flow_runs/filter", sort="START_TIME_DESC", limit=10)
    assert run["name"].startswith("tiny-")
    assert ui.post("/flow_runs/count") == 1
    (pool,) = ui.post("/work_pools/filter")
    assert (pool["name"], pool["type"], pool["status"]) == ("homegrown", "process", "READY")
    (worker,) = ui.post("/work_pools/homegrown/workers/filter")
    assert worker["status"] == "ONLINE"
    automations = ui.post("/automations/filter")
    assert all(automation["enabled"] for automation in automations)
    assert {automation["actions"][0]["state"] for automation in automations} == {"CRASHED", "SCHEDULED"}
    (deployment,) = ui.post("/deployments/filter")
    assert deployment["parameter_openapi_schema"]["properties"]["changes"]["items"]["type"] == "string"
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        ui.start(until="no stage")


def test_up_refuses_what_cannot_work(project: Project) -> None:
    address = ("127.0.0.1", int(project.origin.rpartition(":")[2]))
    with HTTPServer(address, BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        up = project.homegrown("up", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = up.communicate()
        other.shutdown()
    assert (up.returncode, output.count("\n")) == (1, 1)
    assert "is taken by a program that is not a Prefect server" in output

    write_deployments(Path(), discription="misspelt")
    assert "did you mean 'description'?\n" in _answer("up")
    assert project.processes() == {}
