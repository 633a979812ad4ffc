"""The services of `compose.yaml` as processes of this machine, with a PostgreSQL of its own."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prefect.workers.process import ProcessWorker

from homegrown.store import runs
from homegrown.store.artifacts import Store
from tests.flows.local.project import Project, Ui, until

COMPOSE: dict[str, Any] = yaml.safe_load(Path("compose.yaml").read_text())["services"]
RUNS = 8
_PASSWORD = "secret"


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, which Debian keeps outside of the path."""
    found = [Path(path).resolve().parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "postgres").exists()), None)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def database() -> Iterator[str]:
    """The address of a new PostgreSQL cluster with the user and database of `compose.yaml`."""
    if (programs := _programs()) is None:
        pytest.skip("needs PostgreSQL, as of Debian's package postgresql")
    settings, port = COMPOSE["postgres"]["environment"], _free_port()
    options: dict[str, Any] = {"cwd": "/"}
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:  # it refuses to run as root
            options |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(name, "nobody")
        folder = Path(name)
        (folder / "password").write_text(_PASSWORD)
        (folder / "password").chmod(0o644)
        make = [programs / "initdb", "--auth", "scram-sha-256", "--username", settings["POSTGRES_USER"]]
        make += ["--pwfile", folder / "password", folder / "data"]
        subprocess.run(make, check=True, capture_output=True, **options)
        start = [programs / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder]
        process = subprocess.Popen(start, stderr=subprocess.DEVNULL, **options)
        try:
            address = ["-h", "127.0.0.1", "-p", str(port), "-U", settings["POSTGRES_USER"]]
            ready = [programs / "pg_isready", *address]
            until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, "it is ready")
            environment = os.environ | {"PGPASSWORD": _PASSWORD}
            subprocess.run([programs / "createdb", *address, settings["POSTGRES_DB"]], check=True, env=environment)
            url = COMPOSE["server"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
            yield url.replace("${POSTGRES_PASSWORD}", _PASSWORD).replace("postgres:5432", f"127.0.0.1:{port}")
        finally:
            process.send_signal(signal.SIGINT)  # ends its connections
            process.wait()


def test_the_compose_file_has_the_versions_of_the_project() -> None:
    (prefect,) = re.findall(r'"prefect==([\d.]+)"', Path("pyproject.toml").read_text())
    assert COMPOSE["server"]["image"].startswith(f"prefecthq/prefect:{prefect}-python3")
    copied = re.findall(r"^COPY (.*) \S+$", COMPOSE["worker"]["build"]["dockerfile_inline"], re.MULTILINE)
    assert all(Path(name).exists() for line in copied for name in line.split())
    published = [port for service in COMPOSE.values() for port in service.get("ports", [])]
    assert [port.split(":")[0] for port in published] == ["127.0.0.1"]


@pytest.mark.minutes
def test_eight_runs_at_once_on_postgresql(project: Project, database: str) -> None:
    port = project.origin.rpartition(":")[2]
    environment = {**COMPOSE["server"]["environment"], "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    environment = {name: value.replace(":4200", f":{port}") for name, value in environment.items()}
    environment |= {"PREFECT_HOME": str(project.home), "PREFECT_SERVER_API_PORT": port, "PATH": os.environ["PATH"]}
    command = shlex.split(COMPOSE["server"]["command"].replace("0.0.0.0", "127.0.0.1"))
    logs = [project.folder / "server.log", project.folder / "up.log"]
    with logs[0].open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd="/", env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: _answers(project.origin), "the server is ready")
        assert not (project.home / "prefect.db-wal").exists()
        ui, template = Ui(project.origin), ProcessWorker.get_default_base_job_template()
        ui.post("/work_pools/", name="homegrown", type="process", base_job_template=template, concurrency_limit=RUNS)
        with logs[1].open("w") as output:
            arguments = shlex.split(COMPOSE["worker"]["command"])[1:]
            up = project.homegrown(*arguments, stdout=output, stderr=subprocess.STDOUT)
        until(lambda: "Ctrl-C stops everything" in logs[1].read_text() or up.poll() is not None, "up is ready")
        assert up.poll() is None, logs[1].read_text()
        started = [ui.start(force=["ingest"], changes=[f"seed={seed}"]) for seed in range(RUNS)]
        until(lambda: {ui.state(run) for run in started} == {"COMPLETED"}, "all runs are completed")
        up.terminate()
        assert up.wait() == 0
    finally:
        for process in psutil.Process(server.pid).children(recursive=True):
            process.kill()
        server.kill()
        server.wait()
    assert len(runs.recorded(Store(project.folder / "artifacts"))) == RUNS
    text = logs[0].read_text() + logs[1].read_text()
    assert "locked" not in text
    assert " | ERROR " not in text


def _answers(origin: str) -> bool:
    try:
        return httpx.get(f"{origin}/api/health").is_success
    except httpx.HTTPError:
        return False
