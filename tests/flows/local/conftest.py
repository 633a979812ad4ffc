"""A project folder for the tests of `homegrown up`."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.local.project import Project, write_deployments
from tests.flows.small import write_corpus


@pytest.fixture
def project(tmp_path: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.copy("pyproject.toml", tmp_path)  # Prefect's settings
    write_corpus(tmp_path / "data")
    write_deployments(tmp_path)
    made = Project(tmp_path, f"http://127.0.0.1:{port}")
    made.home.mkdir()
    shutil.copy(prefect_database, made.home / "prefect.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", "")  # `up` sets it; undone at the end
    with temporary_settings({PREFECT_API_URL: f"{made.origin}/api"}):
        yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)
