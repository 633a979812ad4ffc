"""What the orchestration costs: a cached run, each stage's overhead, the start of the command line; JSON as last line.

    python -m benchmarks.orchestration [--full] [--runs 5] [--versions 300]

Run in the project's folder. It starts a Prefect server with a database of its own, makes the artifacts of `tiny` once
with less text and a smaller model (`--full`: with `tiny` as it is), and runs it again as whole processes. Goals: such
a cached run in less than 5 seconds (`cached_run_seconds`, the best of `--runs`), at most 0.1 s a stage of them ours;
stages that take less than 2% longer than the engine called directly (`overhead_fraction`); `homegrown --help` in less
than half a second (`help_seconds`). Seconds are by the wall clock, so other programs on the machine are in them.
"""

import argparse
import functools
import io
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measuring import measured, table
from benchmarks.orchestration_direct import run_directly
from homegrown.store.artifacts import Store
from homegrown.store.manifest import MANIFEST, Manifest

PIPELINE = "tiny"
SMALLER = (
    "ingest.sources.0.limit_mb=2",
    "tokenizer.vocabulary_size=1024",
    "tokenizer.sample_mb=1",
    "model.hidden=64",
    "model.feed_forward=128",
    "model.context=128",
    "training.max_steps=100",
    "training.validation_tokens=4000",
    "training.sample_tokens=8",
    "evaluation.perplexity_tokens=4000",
    "evaluation.samples=4",
    "evaluation.prompt_tokens=16",
    "evaluation.continuation_tokens=8",
)


class Process(NamedTuple):
    """What a whole process took, in seconds."""

    wall: float
    cpu: float


@dataclass
class Seconds:
    """Seconds by the wall clock and calls, by what they went into."""

    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)
    stages: dict[str, float] = field(default_factory=dict)
    """What each stage took beside its engine."""

    def time(self, owner: Any, name: str, what: str) -> None:
        """Have each call of a function counted; one in a thread, beside the run, as `what, beside`."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            place = what if threading.current_thread() is threading.main_thread() else f"{what}, beside"
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.spent[place] += time.perf_counter() - start
                self.calls[place] += 1

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="make all of `tiny` (minutes)")
    parser.add_argument("--runs", type=int, default=5, help="cached runs to take the best of (default: 5)")
    parser.add_argument("--versions", type=int, default=300, help="more of each stage to fill the store (default: 300)")
    arguments = parser.parse_args()
    changes = () if arguments.full else SMALLER
    help_seconds = min(_process("--help").wall for _ in range(arguments.runs))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _use_server_of(work)
        from flows.local import server

        with server.running(work / "server.log"):
            overhead = making(work, changes)
            cached = cached_runs(work, changes, arguments.runs, arguments.versions)
    figures = {"cached_run_seconds": cached, "overhead_fraction": overhead, "help_seconds": help_seconds}
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def making(work: Path, changes: tuple[str, ...]) -> float:
    """Print what each stage took beside its engine while everything was made; return its share of the engine's time."""
    run = measured(_watched_run, work / "artifacts", changes)
    direct = measured(run_directly, work / "direct", changes)
    seconds: Seconds = run.result
    engine = {one.manifest.stage: one.manifest.seconds for one in Store(work / "artifacts").all()}
    rows = [(stage, f"{engine[stage]:.2f}", f"{took:.3f}") for stage, took in seconds.stages.items()]
    total, overhead = sum(engine.values()), sum(seconds.stages.values())
    rows += [("all", f"{total:.2f}", f"{overhead:.3f}")]
    for label, whole in (("the same in Prefect", run), ("the engine called directly", direct)):
        rows += [(f"{label}, whole process", f"{whole.wall_seconds:.1f}", "")]
        rows += [(f"{label}, whole process, CPU seconds", f"{whole.cpu_seconds:.1f}", "")]
    table(f"Making `{PIPELINE}` once, seconds", ("", "engine", "beside it"), rows)
    return overhead / total


def cached_runs(work: Path, changes: tuple[str, ...], runs: int, versions: int) -> float:
    """Print where the time of a cached run goes; return the seconds of the best, a whole process."""
    root = work / "artifacts"
    processes = [_cached(root, changes) for _ in range(runs)]
    best = min(process.wall for process in processes)
    seconds: Seconds = measured(_watched_run, root, changes).result
    stages = len(seconds.stages)
    rows = [(what, f"{seconds.calls[what]}", f"{spent:.3f}") for what, spent in seconds.spent.items()]
    table("A cached run, seconds", ("", "times", "seconds"), rows)
    ours = sum(seconds.spent[what] for what in ("ours: key", "ours: slot", "ours: panels", "ours: record of the run"))
    _fill(root, versions)
    filled = [_cached(root, changes) for _ in range(runs)]
    whole = [_row("as it is", processes), _row(f"{versions} more versions of each stage", filled)]
    table(f"Cached runs as whole processes, {runs} each", ("", "best", "median", "least CPU"), whole)
    print(f"\nOurs, for each of {stages} stages: {ours / stages:.3f} s.")
    return best


def _row(label: str, processes: list[Process]) -> tuple[str, ...]:
    walls = [one.wall for one in processes]
    figures = (min(walls), statistics.median(walls), min(one.cpu for one in processes))
    return (label, *(f"{figure:.2f}" for figure in figures))


def _watched_run(root: Path, changes: tuple[str, ...]) -> Seconds:
    """Run the pipeline in this process and return where its time went."""
    seconds = Seconds()
    start = time.perf_counter()
    from flows.local import server  # noqa: F401  (Prefect comes with the server)

    seconds.spent["imports: Prefect"] = time.perf_counter() - start
    start = time.perf_counter()
    import httpx

    from flows import pretrain

    seconds.spent["imports: stages and flow"] = time.perf_counter() - start
    from homegrown.cli.main import cli
    from homegrown.store import runs
    from tasks.stage import Stage

    seconds.time(httpx.Client, "send", "server: requests")
    seconds.time(Stage, "order", "ours: key")
    seconds.time(Store, "slot", "ours: slot")
    seconds.time(Stage, "_show", "ours: panels")
    seconds.time(runs, "record", "ours: record of the run")
    _time_stages(seconds)
    seconds.time(pretrain, "pretrain", "the flow, with all but imports")
    with redirect_stdout(io.StringIO()):
        cli(_arguments(root, changes), standalone_mode=False)
    return seconds


def _time_stages(seconds: Seconds) -> None:
    """Have what each stage takes counted, and what of it is not its engine's work."""
    from tasks.stage import Stage

    call, make = Stage.__call__, Stage._make
    worked: defaultdict[str, float] = defaultdict(float)

    def timed_make(stage: Stage, *arguments: Any) -> Any:
        body: Callable[..., Any] = stage._body

        def timed_body(*inner: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return body(*inner, **named)
            finally:
                worked[stage.name] += time.perf_counter() - start

        stage._body = timed_body
        return make(stage, *arguments)

    def timed_call(stage: Stage, *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(stage, *arguments, **named)
        finally:
            took = time.perf_counter() - start
            seconds.spent["stages, with Prefect's part"] += took
            seconds.calls["stages, with Prefect's part"] += 1
            seconds.stages[stage.name] = took - worked[stage.name]

    patched: Any = Stage
    patched._make, patched.__call__ = timed_make, timed_call


def _cached(root: Path, changes: tuple[str, ...]) -> Process:
    return _process(*_arguments(root, changes))


def _arguments(root: Path, changes: tuple[str, ...]) -> list[str]:
    """Return the command line of a run."""
    return ["--artifacts", str(root), "run", PIPELINE, *(part for one in changes for part in ("--set", one))]


def _process(*arguments: str) -> Process:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "homegrown.cli.main", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Process(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _fill(root: Path, versions: int) -> None:
    """Add versions of other settings, as many runs would leave them; they have manifests and no files."""
    for artifact in Store(root).all():
        for number in range(versions):
            key = f"{number:064x}"
            manifest: Manifest = artifact.manifest.model_copy(
                update={"version": 1000 + number, "key": key, "files": {}}
            )
            folder = artifact.path.with_name(f"{manifest.version}-{key[:16]}")
            folder.mkdir()
            (folder / MANIFEST).write_text(manifest.model_dump_json())


def _use_server_of(folder: Path) -> None:
    """Have this process and its children use a server on a free port, a database and artifacts of their own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # whoever runs a program twice has it compiled
    os.environ |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # As `homegrown run` sets them before Prefect is imported.
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder / "artifacts"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }


if __name__ == "__main__":
    main()
