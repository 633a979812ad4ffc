"""Schedules and deployments of `pipelines.yaml`, on a real server and worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.local.server_log import repeated_errors
from tests.flows.local.project import Project, Ui, until, write_deployments

_LOGGED = """\
02:38:{second}.466 | ERROR   | docket.dependencies - ↩ [    {second}ms] schedule_recent_deployments(){{}}
Traceback (most recent call last):
  File "scheduler.py", line 348, in schedule_recent_deployments
    inserted_runs = await models.deployments._insert_scheduled_flow_runs(
                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; please supply a bulk_dml decorated function
02:38:{second}.466 | INFO    | prefect.server - unrelated
"""


def test_errors_that_repeat_in_the_log_are_found(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert repeated_errors(log) == []
    once = "02:38:01.000 | ERROR   | prefect.server - a single error\n"
    log.write_text(once + "".join(_LOGGED.format(second=second) for second in (30, 35)))
    assert repeated_errors(log) == []
    log.write_text(once + "".join(_LOGGED.format(second=second) for second in (30, 35, 40)))
    (found,) = repeated_errors(log)
    assert found.count == 3
    assert found.message == (
        "sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; please supply a bulk_dml decorated "
        "function"
    )


@pytest.mark.minutes
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for what only Linux does")
def test_a_schedule_fires_twice(project: Project) -> None:
    write_deployments(project.folder, schedules=[{"interval": 10, "parameters": {"changes": ["seed=2"]}}])
    log = project.folder / "up.log"
    with log.open("w") as output:
        up = project.homegrown("up", stdout=output, stderr=subprocess.STDOUT)
    until(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll() is not None, "up is ready")
    ui = Ui(project.origin)

    def completed() -> list[str]:
        ended = {"state": {"type": {"any_": ["COMPLETED"]}}}
        return [run["name"] for run in ui.post("/flow_runs/filter", flow_runs=ended, limit=20) if run["auto_scheduled"]]

    until(lambda: len(completed()) >= 2, "two runs of the schedule are completed")
    up.terminate()
    assert up.wait() == 0, log.read_text()
    assert "repeats an error" not in log.read_text()
