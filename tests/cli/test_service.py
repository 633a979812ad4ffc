"""The service of `homegrown up`: its file, checked by systemd's own tool, and its command, killed and started again."""

import os
import plistlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from homegrown.cli import service
from homegrown.cli.main import cli
from homegrown.util import locks
from tests.flows.local.conftest import project
from tests.flows.local.project import Project, Ui, until

__all__ = ["project"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / 'my "models" 100%'
    made.mkdir()
    (made / "pipelines.yaml").write_text("deployments: []\n")
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HOMEGROWN_ARTIFACTS", raising=False)
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    return made


def homegrown(*arguments: str, answer: str | None = None) -> str:
    return CliRunner().invoke(cli, [*arguments], input=answer).output


def unit(folder: Path) -> Path:
    return folder.parent / "config" / "systemd" / "user" / "homegrown-my--models--100-.service"


needs_systemd = pytest.mark.skipif(sys.platform != "linux", reason="writes a unit of systemd")


@needs_systemd
def test_a_unit_is_installed_checked_and_deleted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4300/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:secret")
    output = homegrown("up", "--install")
    assert output.startswith(f"Wrote {unit(folder)}.\n")
    assert f"The service does not get PREFECT_API_AUTH_STRING; set what it needs in {folder / '.env'}.\n" in output
    text = unit(folder).read_text()
    assert "secret" not in text
    assert 'Environment="PREFECT_API_URL=http://127.0.0.1:4300/api"' in text
    if shutil.which("systemd-analyze"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder.parent))
        verify = ["systemd-analyze", "--user", "verify", str(unit(folder))]
        done = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert homegrown("up", "--install").startswith("Wrote")  # an update needs no question
    assert homegrown("up", "--uninstall").startswith(f"Deleted {unit(folder)}.\n")
    assert homegrown("up", "--uninstall").startswith("Error: No service of this folder is installed")


@needs_systemd
def test_a_file_that_is_not_ours_is_asked_about_and_stays(folder: Path) -> None:
    unit(folder).parent.mkdir(parents=True)
    unit(folder).write_text("[Service]\nExecStart=/bin/true\n")
    assert "was not written for this folder. Overwrite it?" in homegrown("up", "--install", answer="n\n")
    assert "delete it yourself" in homegrown("up", "--uninstall")
    assert unit(folder).read_text() == "[Service]\nExecStart=/bin/true\n"
    assert "Wrote" in homegrown("up", "--install", answer="y\n")


def test_a_running_up_is_not_doubled(folder: Path) -> None:
    with locks.exclusive(folder / "artifacts" / ".state" / "locks" / "up"):
        assert homegrown("up", "--install").startswith("Error: `homegrown up` runs for this store; stop it")
    assert homegrown("up", "--install", "--uninstall").startswith("Error: --install and --uninstall exclude")


def test_a_file_of_launchd_is_a_valid_property_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    made = service.service(folder, folder / "artifacts")
    service.install(made)
    assert made.file == folder.parent / "Library" / "LaunchAgents" / "homegrown.my--models--100-.plist"
    values = plistlib.loads(made.file.read_bytes())
    assert values["ProgramArguments"][1:] == [*["-m", "homegrown.cli.main", "--artifacts"], f"{folder}/artifacts", "up"]
    assert (values["WorkingDirectory"], values["RunAtLoad"], values["KeepAlive"]) == (str(folder), True, True)
    assert made.is_ours
    made.file.write_bytes(plistlib.dumps({"Label": "other", "ProgramArguments": ["/bin/true"]}))
    assert not made.is_ours


def started(text: str, log: Path) -> "subprocess.Popen[bytes]":
    """Start what a unit says, with its environment alone, as systemd does."""
    environment = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= dict(re.findall(r'^Environment="(\w+)=(.*)"$', text, re.MULTILINE))
    command = shlex.split(re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)[0])
    folder = re.findall(r"^WorkingDirectory=(.*)$", text, re.MULTILINE)[0]
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


@pytest.mark.minutes
@needs_systemd
def test_a_run_goes_on_after_the_machine_died(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{project.origin}/api")
    monkeypatch.setenv("PREFECT_HOME", str(project.home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project.folder / "config"))
    homegrown("up", "--install")
    (file,) = (project.folder / "config" / "systemd" / "user").iterdir()
    log = project.folder / "up.log"

    def ready(times: int) -> bool:
        assert up.poll() is None, log.read_text()
        return log.read_text().count("Ctrl-C stops everything") == times

    up = started(file.read_text(), log)
    until(lambda: ready(1), "up is ready")
    ui = Ui(project.origin)
    with locks.exclusive(project.folder / "artifacts" / ".state" / "locks" / "ingest.versions"):
        run = ui.start()
        until(lambda: ui.state(run) == "RUNNING", "the run goes on")
        for pid in project.processes():
            os.kill(pid, signal.SIGKILL)
        up.wait()
        until(lambda: not project.processes(), "everything is dead")
    up = started(file.read_text(), log)
    until(lambda: ready(2), "up is ready again")
    assert " was killed; it resumes.\n" in log.read_text()
    until(lambda: ui.state(run) == "COMPLETED", "the run has gone on")
    up.terminate()
    assert up.wait() == 0, log.read_text()
    assert project.processes() == {}
