"""A small chain, killed at random moments and started again: is anything lost, or different; JSON as last line.

    python -m benchmarks.survival [--kills 100] [--minutes 40] [--folder data/survival]     # up to 40 minutes, 7 GB

Two undisturbed runs give the reference: the keys, and the digests of all files that are equal in both (weights, tokens,
documents; not times and what shows them). Then five projects are killed at the same time, each with a server of its
own, because a chain mostly waits or uses one processor: SIGKILL ends one process after the other, at a seeded random
moment of its life. In two projects these are runs of the terminal, their server and their trainer by turns; in the
others, under `homegrown up`, the command itself, a deployed run, the worker, the server and the trainer. After each
kill, what does not start by itself is started again. A chain that ends before the next moment is compared with the
reference, and the next one begins in an empty store.

`lost` counts published artifacts that are gone or made twice, checkpoints from which training did not resume, and
chains that did not end within twenty minutes of the last kill; `different` counts keys and files that differ from the
reference. `stuck` counts runs that the server shows in progress at the end, `left` processes that did not end.

A call with the same folder resumes; `--minutes` ends it earlier.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import httpx
import psutil

from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.digests import sha256
from tests.flows.local.project import Project, Ui, write_deployments
from tests.flows.small import small_recipe, write_corpus

LAST = "pretrain"
STEPS = 40
CHANGES = (
    f"training.max_steps={STEPS}",
    "training.checkpoint_every=4",
    "training.validate_every=20",
    "training.sample_every=40",
)
TERMINAL = ("run", "server", "trainer")
DEPLOYED = ("up", "run", "worker", "server", "trainer")
LANES = ("terminal-1", "terminal-2", "deployed-1", "deployed-2", "deployed-3")
"""The projects; each has a fifth of the kills."""
EARLY = 0.3
"""Moments are drawn from this part of an undisturbed chain: most kills then come before its end."""
EARLY_TRAINER = 0.7
"""The same for the trainer's life, which a kill does not end: training resumes."""
PATIENCE = 1200.0
RETRY_SECONDS = 10.0
"""Time for the server to start a killed run again."""
_POLL_SECONDS = 0.5
_WORDS = {
    "run": ("prefect.engine", "prefect.flow_engine"),
    "server": ("guarded_server",),
    "worker": ("worker start",),
    "trainer": ("homegrown.training.worker",),
}
Late = Callable[[], bool]
"""Whether the time of this call is over."""


@dataclass
class Reference:
    """What an undisturbed run makes, and how long it takes."""

    keys: dict[str, str]
    digests: dict[str, str]
    seconds: float
    training_seconds: float
    """From the start of the trainer's process to its end."""


@dataclass
class Chain:
    """What a chain has published and reached before its kills."""

    began: float = field(default_factory=time.monotonic)
    published: dict[str, str] = field(default_factory=dict)
    """Key by folder."""
    checkpoint: int = 0

    @property
    def is_late(self) -> bool:
        """Whether it should have ended."""
        return time.monotonic() - self.began > PATIENCE

    def look(self, store: Store, target: str) -> None:
        """Remember what must survive the kill of a target that follows."""
        self.published |= {f"{one.manifest.stage}/{one.path.name}": one.manifest.key for one in store.all()}
        if target == "trainer":  # a trainer whose run is killed may go on to the end, and never resume
            found = store.root.glob("pretrain/.*.partial/checkpoints/step-*")
            self.checkpoint = max([self.checkpoint, *(int(path.name.removeprefix("step-")) for path in found)])


class Terminal:
    """Runs of the chain in a terminal; each starts a server if none answers."""

    def __init__(self, project: Project, log: TextIO, late: Late) -> None:
        self._project, self._log = project, log
        self._runs: list[subprocess.Popen[str]] = []

    def keep_going(self) -> None:
        """Start a run if none is there."""
        if not self._alive:
            self.start()

    def start(self) -> None:
        """Start a run, beside one that may still be there."""
        self._runs.append(start(self._project, self._log, "run", "tiny", "--until", LAST))

    def after(self, target: str) -> None:
        """A person whose server dies starts the same command again, and does not wait for the first."""
        if target == "server":
            self.start()

    def pids(self, target: str) -> list[int]:
        """Return the processes of a target."""
        return [one.pid for one in self._alive] if target == "run" else _pids(self._project, target)

    @property
    def ended(self) -> bool:
        """Whether a run has ended well, and none is at work."""
        return not self._alive and any(one.returncode == 0 for one in self._runs)

    def begin(self) -> None:
        """Begin a new chain."""
        self._runs.clear()

    def stop(self) -> int | None:
        """Return how many runs the server shows as in progress; its own next run marks those that died."""
        return 0

    @property
    def _alive(self) -> list["subprocess.Popen[str]"]:
        return [one for one in self._runs if one.poll() is None]


class Deployed:
    """Runs of a deployment, under one `homegrown up`."""

    def __init__(self, project: Project, log: TextIO, late: Late) -> None:
        self._project, self._log, self._late = project, log, late
        self._up: subprocess.Popen[str] | None = None
        self._ui: Ui | None = None
        self._run: str | None = None
        self._crashed: float | None = None
        self.ended = False

    def keep_going(self) -> None:
        """Start `up`, and a run if none is there or the last one was not started again."""
        if self._up is None or self._up.poll() is not None:
            self._up, self._ui = start(self._project, self._log, "up"), None
        if not (self._project.folder / "artifacts/.state/up.json").exists():
            return
        with suppress(httpx.HTTPError):
            self._ui = self._ui or Ui(self._project.origin)
            state = self._ui.state(self._run) if self._run else "CRASHED"
            self.ended = state == "COMPLETED"
            if state not in ("CRASHED", "FAILED", "CANCELLED"):
                self._crashed = None
                return
            self._crashed = self._crashed or time.monotonic()
            if self._run is None or time.monotonic() - self._crashed > RETRY_SECONDS:
                self._run, self._crashed = self._ui.start(), None

    def after(self, target: str) -> None:
        """What died starts by itself, or when it is missing."""

    def pids(self, target: str) -> list[int]:
        """Return the processes of a target."""
        if target == "up":
            return [self._up.pid] if self._up and self._up.poll() is None else []
        return _pids(self._project, target)

    def begin(self) -> None:
        """Begin a new chain, when no run of the last one is at work any more."""
        end = time.monotonic() + PATIENCE
        while _pids(self._project, "run") and time.monotonic() < end and not self._late():
            time.sleep(_POLL_SECONDS)
        self._run, self._crashed, self.ended = None, None, False

    def stop(self) -> int | None:
        """Wait until the server shows every run as ended; stop `up`, and return the number of the others.

        Returns None if the time of the call is over before.
        """
        end, left = time.monotonic() + PATIENCE, 1
        while left and time.monotonic() < end:
            if self._late():
                return None
            time.sleep(_POLL_SECONDS)
            with suppress(httpx.HTTPError):
                ui = Ui(self._project.origin)
                states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING", "SCHEDULED"]}}}
                left = len(ui.post("/flow_runs/filter", flow_runs=states))
        if self._up:
            self._up.send_signal(signal.SIGINT)
            self._up.wait()
        return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: 100)")
    parser.add_argument("--minutes", type=float, default=40, help="time limit of this call (default: 40)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments (default: 1)")
    parser.add_argument("--folder", type=Path, default=Path("data/survival"), help="the project folder (data/survival)")
    arguments = parser.parse_args()
    stopped = threading.Event()
    end = time.monotonic() + arguments.minutes * 60
    with ThreadPoolExecutor(len(LANES)) as pool, ExitStack() as stack:
        lanes = []
        for number, name in enumerate(LANES):
            kills = (arguments.kills + number) // len(LANES)
            lane = Lane(arguments.folder.resolve() / name, f"{arguments.seed}-{name}", kills, end, stopped)
            lanes.append(stack.enter_context(lane))
        stack.callback(stopped.set)
        made = list(pool.map(Lane.undisturbed, lanes[:2]))
        if reference := _agreed([one for one in made if one]):
            list(pool.map(lambda lane: lane.run(reference), lanes))
    every = [lane.result() for lane in lanes]
    print(json.dumps({name: sum(one[name] for one in every) for name in every[0]}))


class Lane:
    """A project folder, and the records of kills and chains in it."""

    def __init__(self, folder: Path, seed: str, kills: int, end: float, stopped: threading.Event) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seed, self._kills = folder, seed, kills
        self._end, self._stopped = end, stopped
        self._project = Project(folder, f"http://127.0.0.1:{port(folder)}")
        self._store = Store(folder / "artifacts")
        self._records = folder / "records.jsonl"
        self._log = (folder / "log.txt").open("a")

    def __enter__(self) -> "Lane":
        self._end_all()
        shutil.copy("pyproject.toml", self._folder)  # Prefect's settings
        write_corpus(self._folder / "data")
        recipe = small_recipe(Path("data"), *CHANGES).model_dump(mode="json")
        write_deployments(self._folder, parameters={"recipe": recipe, "until": LAST, "force": [], "changes": []})
        return self

    def __exit__(self, *error: object) -> None:
        self._end_all()
        self._log.close()

    def undisturbed(self) -> Reference | None:
        """Return what a run makes that nothing disturbs; None if the time is over before its end."""
        file = self._folder / "undisturbed.json"
        if not file.exists():
            self._clear()
            began, trainer = time.monotonic(), set[float]()
            run = start(self._project, self._log, "run", "tiny", "--until", LAST)
            while run.poll() is None:
                if self._late():
                    return None
                if _pids(self._project, "trainer"):
                    trainer.add(time.monotonic())
                time.sleep(_POLL_SECONDS)
            if run.returncode != 0:
                raise SystemExit(f"a run failed; see {self._log.name}")
            keys, digests = _made(self._store)
            made = Reference(keys, digests, time.monotonic() - began, max(trainer) - min(trainer))
            self._clear()
            file.write_text(json.dumps(asdict(made)))
        return Reference(**json.loads(file.read_text()))

    def run(self, reference: Reference) -> None:
        """Kill until there are as many kills as wanted, or the time is over."""
        is_terminal = self._folder.name.startswith("terminal")
        mode, targets = (Terminal, TERMINAL) if is_terminal else (Deployed, DEPLOYED)
        done = len(self._of("kill"))
        if self._late() or self._of("stop"):
            return
        runner, chain = mode(self._project, self._log, self._late), Chain()
        for number in range(done, self._kills):
            while not self._late() and not self._kill(number, targets[number % len(targets)], runner, chain, reference):
                chain = self._next(runner, chain, reference)
        while not (self._late() or runner.ended or chain.is_late):
            self._wait(runner)
        self._next(runner, chain, reference)
        if not self._late() and (stuck := runner.stop()) is not None:
            self._record(what="stop", stuck=stuck, left=self._left())

    def result(self) -> dict[str, int]:
        """Return the figures of all calls so far."""
        chains, stops = self._of("chain"), self._of("stop")
        for one in [*chains, *stops]:
            if one.get("lost") or one.get("different") or one.get("stuck") or one.get("left"):
                print(self._folder.name, one)
        return {
            "kills": len(self._of("kill")),
            "lost": sum(len(one["lost"]) for one in chains),
            "different": sum(len(one["different"]) for one in chains),
            "stuck": sum(one["stuck"] for one in stops),
            "left": sum(one["left"] for one in stops),
            "chains": len(chains),
        }

    def _late(self) -> bool:
        return self._stopped.is_set() or time.monotonic() > self._end

    def _kill(
        self, number: int, target: str, runner: "Terminal | Deployed", chain: Chain, reference: Reference
    ) -> bool:
        """Kill a target at the moment of this number; return False if the chain ended before it, or never ends."""
        life = reference.training_seconds * EARLY_TRAINER if target == "trainer" else reference.seconds * EARLY
        seconds = random.Random(f"{self._seed}-{number}").uniform(0, life)
        born: float | None = None
        while True:
            if self._late() or runner.ended or chain.is_late:
                return False
            pids = runner.pids(target)
            if pids and born is None:
                born = time.monotonic()
            if pids and born is not None and time.monotonic() - born >= seconds:
                break
            self._wait(runner)
        chain.look(self._store, target)
        with suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
        chain.began = time.monotonic()
        made = sorted({folder.split("/")[0] for folder in chain.published})
        place = {"after": round(seconds, 1), "published": len(made), "checkpoint": chain.checkpoint}
        self._record(what="kill", number=number, target=target, **place)
        runner.after(target)
        return True

    def _wait(self, runner: "Terminal | Deployed") -> None:
        runner.keep_going()
        time.sleep(_POLL_SECONDS)

    def _next(self, runner: "Terminal | Deployed", chain: Chain, reference: Reference) -> Chain:
        """Compare a chain that has ended with the reference, and begin the next one."""
        if self._late():
            return chain
        lost = [] if runner.ended else ["the chain did not end"]
        there = {f"{one.manifest.stage}/{one.path.name}": one.manifest.key for one in self._store.all()}
        lost += [f"{folder} is gone" for folder, key in chain.published.items() if there.get(folder) != key]
        lost += [f"{folder} is damaged" for folder in map(str, self._store.damaged())]
        stages = [folder.split("/")[0] for folder in there]
        lost += [f"{stage} was made twice" for stage in sorted({one for one in stages if stages.count(one) > 1})]
        trained = next((one for one in self._store.all() if one.manifest.stage == "pretrain"), None)
        if trained and int(trained.manifest.metrics["resumed_from"]) < chain.checkpoint:
            lost.append(f"training resumed before step {chain.checkpoint}")
        keys, digests = _made(self._store)
        different = _differences(reference.keys, keys) + _differences(reference.digests, digests)
        self._record(what="chain", lost=lost, different=different)
        if lost or different:
            shutil.copytree(self._store.root, self._folder / f"odd-{time.time():.0f}", symlinks=True)
        if not runner.ended:
            self._end_all()
        runner.begin()
        self._clear()
        return Chain()

    def _clear(self) -> None:
        """Empty the store but for its state, which has the logs."""
        trash = self._folder / "trash"
        trash.mkdir(exist_ok=True)
        for path in self._store.root.glob("[!.]*"):
            path.rename(trash / path.name)
        shutil.rmtree(trash)

    def _left(self) -> int:
        """Return the number of processes that do not end by themselves."""
        end = time.monotonic() + 60
        while (left := self._project.processes()) and time.monotonic() < end:
            time.sleep(1)
        if left:
            print(left, file=sys.stderr)
        return len(left)

    def _end_all(self) -> None:
        for pid in self._project.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _record(self, **values: Any) -> None:
        with self._records.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def _of(self, what: str) -> list[dict[str, Any]]:
        lines = self._records.read_text().splitlines() if self._records.exists() else []
        return [one for one in map(json.loads, lines) if what in ("", one["what"])]


def _agreed(made: Sequence[Reference]) -> Reference | None:
    """Return what two undisturbed runs agree on, also about their length; None without two."""
    if len(made) < 2:
        return None
    one, two = made
    equal = {name: digest for name, digest in one.digests.items() if two.digests.get(name) == digest}
    if not any(name.endswith("model.safetensors") for name in equal) or one.keys != two.keys:
        raise SystemExit("two undisturbed runs differ in their weights or keys")
    seconds, training = fmean(each.seconds for each in made), fmean(each.training_seconds for each in made)
    return Reference(one.keys, equal, seconds, training)


def _made(store: Store) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys that a finished run recorded, and the digests of the files of all artifacts."""
    finished = [one for one in runs.recorded(store).values() if one.finished and LAST in one.keys]
    files: dict[str, str] = {}
    for one in store.all():
        stage = one.manifest.stage
        files |= {f"{stage}/{name}": sha256(one.path / name) for name in one.manifest.files}
    return (dict(finished[-1].keys) if finished else {}), files


def _differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [name for name, value in expected.items() if found.get(name) != value]


def start(project: Project, log: TextIO, *arguments: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[str]":
    """Start a command of `homegrown` in the project's folder; the prefix starts it, for example as another user."""
    log.write(f"\n$ homegrown {' '.join(arguments)}\n")
    log.flush()
    output: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT}
    return project.homegrown(*arguments, prefix=prefix, start_new_session=True, **output)


def _pids(project: Project, target: str) -> list[int]:
    """Return the processes of a target that the project has started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if any(word in command for word in _WORDS[target]):
                if process.environ().get("PREFECT_HOME") == str(project.home):
                    found.append(process.pid)
    return found


def port(folder: Path) -> int:
    """Return the port of the folder's server, which stays the same."""
    file = folder / "port"
    if not file.exists():
        with socket.create_server(("127.0.0.1", 0)) as free:
            file.write_text(str(free.getsockname()[1]))
    return int(file.read_text())


if __name__ == "__main__":
    main()
