"""Schedules and deployments of `pipelines.yaml`, on a real server and worker."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.local import server_log
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


def test_a_log_is_rotated_under_a_process_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "_ROTATE_BYTES", 100)
    log = tmp_path / "server.log"
    with log.open("ab", buffering=0) as output:
        for number in range(5):
            output.write(f"{number}".encode() * 99)
            server_log.rotate(log)
            output.write(b"\n")
            server_log.rotate(log)
        output.write(b"last")
    assert log.read_bytes() == b"last"
    rotated = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file != log}
    assert rotated == {f"server.log.{5 - number}": f"{number}".encode() * 99 + b"\n" for number in (2, 3, 4)}


@contextmanager
def up(project: Project) -> Iterator[Callable[[], str]]:
    """Run `homegrown up` for the block; yield a function that returns its output."""
    log = project.folder / "up.log"
    with log.open("w") as output:
        process = project.homegrown("up", stdout=output, stderr=subprocess.STDOUT)
    until(lambda: "Ctrl-C stops everything" in log.read_text() or process.poll() is not None, "up is ready")
    assert process.poll() is None, log.read_text()
    yield log.read_text
    process.terminate()
    assert process.wait() == 0, log.read_text()


@pytest.mark.minutes
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for what only Linux does")
def test_a_schedule_fires_twice_and_is_removed_with_its_line(project: Project) -> None:
    write_deployments(project.folder, schedules=[{"interval": 10, "parameters": {"changes": ["seed=2"]}}])
    with up(project) as output:
        ui = Ui(project.origin)

        def completed() -> list[str]:
            runs = ui.post("/flow_runs/filter", flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}}, limit=20)
            return [run["name"] for run in runs if run["auto_scheduled"]]

        until(lambda: len(completed()) >= 2, "two runs of the schedule are completed")
        assert "repeats an error" not in output()
        elsewhere = dict(ui.get("/deployments/name/pretrain/tiny"))
        elsewhere = {key: elsewhere[key] for key in ("flow_id", "entrypoint", "parameters")}
        ui.post("/deployments/", name="of another project", **elsewhere)

    write_deployments(project.folder)
    with up(project) as output:
        ui = Ui(project.origin)
        removed = "Removed the schedule interval 10 s of pretrain/tiny: pipelines.yaml does not have it.\n"
        assert removed in output()
        (schedules,) = [one["schedules"] for one in ui.post("/deployments/filter") if one["name"] == "tiny"]
        assert schedules == []
        waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        assert ui.post("/flow_runs/count", flow_runs=waiting) == 0

    write_deployments(project.folder, name="renamed")
    with up(project) as output:
        assert "Removed the deployment pretrain/tiny: pipelines.yaml does not have it.\n" in output()
        names = sorted(one["name"] for one in Ui(project.origin).post("/deployments/filter"))
        assert names == ["of another project", "renamed"]
