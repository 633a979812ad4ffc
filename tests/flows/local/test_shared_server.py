"""A server that several commands use lives as long as one of them does: real processes."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homegrown.util import locks
from tests.flows.local.project import Project, until

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for what only Linux does"),
]


def run(project: Project, *arguments: str) -> "subprocess.Popen[str]":
    return project.homegrown("run", "tiny", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def recorded(project: Project) -> int:
    return len(list((project.folder / "artifacts" / "runs").glob("[!.]*.json")))


def serves(project: Project) -> list[int]:
    return [pid for pid, command in project.processes().items() if "guarded_server" in command]


def held(project: Project) -> Path:
    """Return the lock that a run needs for its second stage."""
    return project.folder / "artifacts" / ".state" / "locks" / "dedup.versions"


def test_the_server_of_a_run_lives_until_the_second_run_ends(project: Project) -> None:
    with locks.exclusive(held(project)):
        first = run(project, "--until", "ingest")
        until(lambda: serves(project), "the first run starts a server")
        second = run(project, "--until", "dedup")
        output, _ = first.communicate()
        assert first.returncode == 0, output
        assert "Starting a Prefect server, which takes 10 s or more" in output
        until(lambda: recorded(project) == 2, "the second run goes on")
        time.sleep(3)
        assert len(serves(project)) == 1
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert "dedup: made in" in output
    assert "ERROR" not in output and "Error" not in output, output
    until(lambda: project.processes() == {}, "the server ends with its last user")


def test_the_server_of_up_lives_until_a_run_ends_and_serves_one_folder(project: Project, tmp_path: Path) -> None:
    log = project.folder / "up.log"
    with log.open("w") as output:
        up = project.homegrown("up", stdout=output, stderr=subprocess.STDOUT)
    until(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll() is not None, "up is ready")

    other = Project(tmp_path / "other", project.origin)
    other.folder.mkdir()
    for file in ("pyproject.toml", "pipelines.yaml"):
        shutil.copy(project.folder / file, other.folder)
    other.home.symlink_to(project.home)
    refused = other.homegrown("up", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert refused.communicate()[0].startswith(
        "Error: `homegrown up` of another folder already uses the Prefect server"
    )

    with locks.exclusive(held(project)):
        ongoing = run(project, "--until", "dedup")
        until(lambda: recorded(project) == 1, "the run goes on")
        up.terminate()
        assert up.wait() == 0
        assert f"The Prefect server keeps running until the last run that uses {project.origin}/api ends." in (
            log.read_text()
        )
    output_of_run, _ = ongoing.communicate()
    assert ongoing.returncode == 0, output_of_run
    assert "Error" not in output_of_run
    until(lambda: project.processes() == {}, "the server ends with its last user")


class OtherHome(Project):
    """The same project with another PREFECT_HOME."""

    @property
    def home(self) -> Path:
        return self.folder / "other-home"


def test_two_folders_of_prefect_share_the_server_at_one_address(project: Project) -> None:
    """The second run has another PREFECT_HOME, and goes on after the first, which started the server, has ended."""
    other = OtherHome(project.folder, project.origin)
    with locks.exclusive(held(project)):
        first = run(project, "--until", "ingest")
        until(lambda: serves(project), "the first run starts a server")
        second = run(other, "--until", "dedup")
        output, _ = first.communicate()
        assert first.returncode == 0, output
        until(lambda: recorded(project) == 2, "the second run goes on")
        time.sleep(3)
        assert len(serves(project)) == 1
    output, _ = second.communicate()
    assert second.returncode == 0, output
    until(lambda: project.processes() == {}, "the server ends with its last user")
