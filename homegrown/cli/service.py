"""A service of the operating system that runs `homegrown up`: of systemd on Linux, of launchd on macOS."""

import os
import plistlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from homegrown.util.errors import UserError

_MARK = "# Written by `homegrown up --install`; `homegrown up --uninstall` deletes it."
_COPIED = ("PREFECT_API_URL", "PREFECT_HOME", "HOMEGROWN_REMOTE")
"""Variables of the environment that the service keeps; none of them is a secret."""
_PREFIXES = ("PREFECT_", "HOMEGROWN_")
_INHERITED = ("HOMEGROWN_ARTIFACTS",)
"""Variables that the command line of the service has."""
_RESTART_SECONDS = 15
_STOP_SECONDS = 120
"""Time for runs to write a checkpoint, for the workers and for the server to stop."""


@dataclass(frozen=True)
class Service:
    """The service of one project folder."""

    name: str
    file: Path
    text: bytes
    start: Sequence[Sequence[str]]
    """Commands that start it, now and after each reboot."""
    stop: Sequence[Sequence[str]]
    """Commands that stop it for good."""

    @property
    def is_ours(self) -> bool:
        """Whether the file is missing or was written for this project folder."""
        if not self.file.exists():
            return True
        found = self.file.read_bytes()
        return _owner(found) is not None and _owner(found) == _owner(self.text)


def service(folder: Path, root: Path) -> Service:
    """Return the service that runs `homegrown up` in a project folder with the store `root`.

    Raises:
        UserError: the system has neither systemd nor launchd.
    """
    command = [sys.executable, "-m", "homegrown.cli.main", "--artifacts", str(root), "up"]
    environment = {name: os.environ[name] for name in _COPIED if name in os.environ}
    if sys.platform == "darwin":
        return _launchd(folder, root, command, environment)
    if sys.platform == "linux":
        return _systemd(folder, command, environment)
    raise UserError("This system has neither systemd nor launchd; start `homegrown up` in another way.")


def left_out() -> list[str]:
    """Return the variables of the environment that the service does not get, as they may be secrets."""
    return sorted(name for name in os.environ if name.startswith(_PREFIXES) and name not in (*_COPIED, *_INHERITED))


def install(wanted: Service) -> str | None:
    """Write the file of a service and start it; return the problem if the system does not answer."""
    wanted.file.parent.mkdir(parents=True, exist_ok=True)
    wanted.file.write_bytes(wanted.text)
    return _problem(wanted.start)


def uninstall(installed: Service) -> str | None:
    """Stop a service and delete its file; return the problem if the system does not answer.

    Raises:
        UserError: it is not installed, or its file is of another folder or program.
    """
    if not installed.file.exists():
        raise UserError(f"No service of this folder is installed: {installed.file} does not exist.")
    if not installed.is_ours:
        raise UserError(f"{installed.file} was not written for this folder; delete it yourself.")
    problem = _problem(installed.stop)
    installed.file.unlink()
    return problem


def _systemd(folder: Path, command: list[str], environment: dict[str, str]) -> Service:
    name = f"homegrown-{_plain(folder.name)}.service"
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    lines = [
        _MARK,
        "[Unit]",
        f"Description=Homegrown in {_percent(str(folder))}",
        "StartLimitIntervalSec=600",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        f"WorkingDirectory={_percent(str(folder))}",
        f"EnvironmentFile=-{_percent(str(folder / '.env'))}",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items()),
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in command)}",
        "Restart=always",
        f"RestartSec={_RESTART_SECONDS}",
        "KillMode=mixed",
        f"TimeoutStopSec={_STOP_SECONDS}",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    control = ["systemctl", "--user"]
    return Service(
        name,
        base / "systemd" / "user" / name,
        "\n".join(lines).encode(),
        start=[
            [*control, "daemon-reload"],
            [*control, "enable", "--now", name],
            ["loginctl", "enable-linger"],  # without it, services start when their user logs in
        ],
        stop=[[*control, "disable", "--now", name]],
    )


def _launchd(folder: Path, root: Path, command: list[str], environment: dict[str, str]) -> Service:
    name = f"homegrown.{_plain(folder.name)}"
    file = Path.home() / "Library" / "LaunchAgents" / f"{name}.plist"
    log = str(root / ".state" / "up.log")
    values = {
        "Label": name,
        "ProgramArguments": command,
        "WorkingDirectory": str(folder),
        "EnvironmentVariables": environment,
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": _RESTART_SECONDS,
        "ExitTimeOut": _STOP_SECONDS,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    domain = f"gui/{os.getuid()}"
    return Service(
        name,
        file,
        plistlib.dumps(values),
        start=[["launchctl", "bootstrap", domain, str(file)]],
        stop=[["launchctl", "bootout", f"{domain}/{name}"]],
    )


def _owner(text: bytes) -> str | None:
    """Return the project folder that a service's file was written for; None if we did not write it."""
    if text.startswith(_MARK.encode()):
        lines = text.decode().splitlines()
        return next((line for line in lines if line.startswith("WorkingDirectory=")), None)
    try:
        values = plistlib.loads(text)
    except (plistlib.InvalidFileException, ValueError, SyntaxError):
        return None
    ours = isinstance(values, dict) and "homegrown.cli.main" in values.get("ProgramArguments", [])
    return str(values.get("WorkingDirectory")) if ours else None


def _problem(commands: Sequence[Sequence[str]]) -> str | None:
    """Run commands; return the output of the first that fails."""
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        if done.returncode:
            return " ".join((done.stderr or done.stdout).split()) or f"{command[0]} failed"
    return None


def _plain(name: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in name)


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Quote a word of a systemd unit."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_percent(escaped)}"'
