"""A week in an hour: scheduled runs, cancellations, a full disk, a server restart, two users; JSON as last line.

    python -m benchmarks.week [--runs 60] [--interval 60] [--folder data/week]     # an hour, as root

`homegrown up` runs in a folder on a disk of its own (a tmpfs, which needs root), with Prefect's database on it, and a
schedule starts a run every `--interval` seconds. Before every second one a file is added to its text, so that there is
something to make. A seeded sixth of the runs is cancelled while it runs. After a third of them the disk is filled, and
freed three runs later; after 60% the server is ended. Meanwhile a second user (uid 65534, with a folder and a server of
their own) reads the store and runs the same pipeline three times. The output of all commands and the server's log are
kept beside the folder.

`stuck` counts runs that do not end within ten minutes after the schedule stops, `lost` times of the schedule without
a run and artifacts of completed runs that are gone, `unexplained` runs that ended otherwise than completed, cancelled
by this program, or failed around the full disk. `database_mb` is the size of Prefect's database.
"""

import argparse
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks.survival import port, start
from homegrown.store import runs
from homegrown.store.artifacts import Store
from tests.flows.local.project import Project, Ui, write_deployments
from tests.flows.small import small_recipe, write_corpus

LAST = "dedup"
DISK_MB = 200
CANCELLED_SHARE = 1 / 6
FULL_RUNS = 3
"""Runs of the schedule while the disk is full."""
PATIENCE = 600.0
AROUND_SECONDS = 60.0
"""Time around the full disk in which a run may fail."""
OTHER_UID = 65534
_OPEN = """set -e
umask 022
mount --bind "$1" /mnt
mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir -p "$1"
mount --bind /mnt "$1"
shift 2
exec "$@"
"""


@dataclass
class Week:
    """What happened so far."""

    cancelled: set[str] = field(default_factory=set)
    full: list[float] = field(default_factory=list)
    """When the disk was full, and when it was free again."""
    restarted: bool = False
    added: int = 0
    """Files added to the text."""
    others: list["subprocess.Popen[str]"] = field(default_factory=list)
    """Commands of the second user."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="scheduled runs (default: 60)")
    parser.add_argument("--interval", type=int, default=60, help="seconds between them (default: 60)")
    parser.add_argument("--folder", type=Path, default=Path("data/week"), help="an empty folder (data/week)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True)
    with _disk(folder):
        print(json.dumps(_week(folder, arguments.runs, arguments.interval)))


def _week(folder: Path, count: int, interval: int) -> dict[str, Any]:
    project, other = _project(folder, interval), _other_project(folder.with_name(f"{folder.name}-other"))
    week, began = Week(), time.monotonic()
    with (folder.with_name(f"{folder.name}.log")).open("w") as log:
        up = start(project, log, "up")
        try:
            _until(lambda: (folder / "artifacts/.state/up.json").exists() or up.poll() is not None)
            if up.poll() is not None:
                raise SystemExit(f"homegrown up failed; see {log.name}")
            ui = Ui(project.origin)
            first = _database_mb(project)
            while up.poll() is None:
                if len(week.full) == 1 and time.time() - week.full[0] > FULL_RUNS * interval:
                    (folder / "filler").unlink()
                    week.full.append(time.time())
                with suppress(httpx.HTTPError):
                    due = [one for one in _scheduled(ui) if _expected(one) <= time.time()]
                    if len(due) >= count:
                        break
                    _happen(week, project, other, ui, due, count, log)
                time.sleep(1)
            _until(lambda: _pause(ui))
            _until(lambda: not _unfinished(ui))
            result = _result(week, project, ui, interval)
            result["database_mb"] = [first, _database_mb(project)]
        finally:
            if up.poll() is None:
                up.send_signal(signal.SIGINT)
                up.wait()
            for path in (folder / "artifacts/.state").glob("*.log"):
                shutil.copy(path, folder.with_name(f"{folder.name}-{path.name}"))
    result["other_user"] = Counter("ok" if one.wait() == 0 else "failed" for one in week.others)
    result["left"] = len(project.processes())
    result["minutes"] = round((time.monotonic() - began) / 60, 1)
    return result


def _happen(
    week: Week, project: Project, other: Project, ui: Ui, due: list[dict[str, Any]], count: int, log: Any
) -> None:
    """Do what this moment of the week asks for."""
    number = len(due)
    if number // 2 > week.added:
        week.added = number // 2
        with suppress(OSError):
            _add_text(project.folder / "data", week.added)
    for place, one in enumerate(due):
        chosen, seconds = random.Random(place).random() < CANCELLED_SHARE, random.Random(place + 0.5).uniform(0, 5)
        running = one["state_type"] == "RUNNING" and time.time() - _time(one["start_time"]) > seconds
        if chosen and running and one["id"] not in week.cancelled:
            ui.post(f"/flow_runs/{one['id']}/set_state", state={"type": "CANCELLING"})
            week.cancelled.add(one["id"])
    if number >= count // 3 and not week.full:
        week.full.append(time.time())
        _fill(project.folder / "filler")
    if number >= count * 0.6 and not week.restarted:
        week.restarted = True
        for pid, command in project.processes().items():
            if "guarded_server" in command:
                os.kill(pid, signal.SIGTERM)
    if number >= (len(week.others) // 2 + 1) * count // 4 and len(week.others) < 6:
        store = str(project.folder / "artifacts")
        for arguments in (("--artifacts", store, "artifacts"), ("run", "tiny", "--until", LAST)):
            week.others.append(start(other, log, *arguments, prefix=_as_other(other.folder)))


def _add_text(folder: Path, number: int) -> None:
    """Write a file of every seventh document, which differs in a few words."""
    lines = (folder / "topics.jsonl").read_text().splitlines()[number % 7 :: 7]
    changed = (line.replace(" the ", f" the {number} ", 3) for line in lines)
    (folder / f"day-{number}.jsonl").write_text("".join(f"{line}\n" for line in changed))


def _result(week: Week, project: Project, ui: Ui, interval: int) -> dict[str, Any]:
    every = _scheduled(ui)
    states = Counter(one["state_type"].lower() for one in every)
    times = sorted(_expected(one) for one in every)
    missing = sum(round((later - earlier) / interval) - 1 for earlier, later in pairwise(times))
    around = (week.full[0] - AROUND_SECONDS, week.full[1] + AROUND_SECONDS)
    unexplained = [
        (one["name"], one["state_type"], one["state"]["message"])
        for one in every
        if one["state_type"] != "COMPLETED"
        and not (one["state_type"] == "CANCELLED" and one["id"] in week.cancelled)
        and not around[0] <= _expected(one) <= around[1]
    ]
    for one in unexplained:
        print(*one)
    store = Store(project.folder / "artifacts")
    there = {one.manifest.key for one in store.all()}
    finished = [one for one in runs.recorded(store).values() if one.finished]
    gone = {key for one in finished for key in one.keys.values()} - there
    return {
        "runs": len(every),
        **states,
        "stuck": len(_unfinished(ui)),
        "lost": missing + len(gone) + len(store.damaged()),
        "unexplained": len(unexplained),
        "attempts": sum(one["run_count"] for one in every),
    }


def _pause(ui: Ui) -> bool:
    """Stop the schedule; a busy server may refuse it once."""
    deployment = ui.get("/deployments/name/pretrain/tiny")["id"]
    return ui.client.patch(f"/deployments/{deployment}", json={"paused": True}, headers=ui.headers).is_success


def _scheduled(ui: Ui) -> list[dict[str, Any]]:
    """Return the runs of the schedule, without those that are still to come."""
    found: list[dict[str, Any]] = []
    while page := ui.post("/flow_runs/filter", sort="EXPECTED_START_TIME_ASC", limit=200, offset=len(found)):
        found += page
    return [one for one in found if one["auto_scheduled"] and _expected(one) <= time.time()]


def _unfinished(ui: Ui) -> list[str]:
    states = ["RUNNING", "PENDING", "CANCELLING", "SCHEDULED", "PAUSED"]
    filters = {"state": {"type": {"any_": states}}}
    return [one["name"] for one in ui.post("/flow_runs/filter", flow_runs=filters, limit=200)]


def _expected(run: dict[str, Any]) -> float:
    return _time(run["expected_start_time"])


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _until(true: Callable[[], Any]) -> None:
    """Wait until it is true, at most ten minutes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if true():
                return
        time.sleep(1)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Give the folder a small disk of its own for the block."""
    if os.geteuid() != 0 or sys.platform != "linux":
        raise SystemExit("the small disk is a tmpfs, which only root can mount on Linux")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as filler:
        for size in (1_000_000, 4096):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))


def _project(folder: Path, interval: int) -> Project:
    shutil.copy("pyproject.toml", folder)  # Prefect's settings
    write_corpus(folder / "data")
    recipe = small_recipe(Path("data")).model_dump(mode="json")
    parameters = {"recipe": recipe, "until": LAST, "force": [], "changes": []}
    write_deployments(folder, parameters=parameters, schedules=[{"interval": interval}])
    return Project(folder, f"http://127.0.0.1:{port(folder)}")


def _other_project(folder: Path) -> Project:
    folder.mkdir()
    project = _project(folder, 3600)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER_UID, OTHER_UID)
    return project


def _as_other(home: Path) -> list[str]:
    """Return what starts a command as the second user.

    Python may be in a folder that is closed to others, for example root's home. The command then sees another folder
    in its place, with nothing but Python.
    """
    become = ["setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups", "env", f"HOME={home}"]
    python = Path(sys.base_prefix)
    closed = next((one for one in reversed(python.parents) if not one.stat().st_mode & stat.S_IXOTH), None)
    return ["unshare", "--mount", "sh", "-c", _OPEN, "sh", str(python), str(closed), *become] if closed else become


def _database_mb(project: Project) -> float:
    return round(sum(path.stat().st_size for path in project.home.glob("prefect.db*")) / 1e6, 1)


if __name__ == "__main__":
    main()
