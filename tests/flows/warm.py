"""The command line in processes that begin warm: forked from one that has imported Prefect and PyTorch already.

Importing them takes four seconds of processor time, and the tests of kills start dozens of processes. Each is a real
one, killed and stopped as any other; that the command line also works from cold is seen in `test_up` and elsewhere.
"""

import gc
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

_IMPORTED = (
    "flows.pretrain",
    "homegrown.cli.run",
    "flows.local.server",
    "homegrown.cli.sweep",
    "homegrown.cli.live_display",
    "homegrown.cli.main",
    "homegrown.corpus.dedup",
    "homegrown.corpus.filter",
    "homegrown.corpus.ingest",
    "homegrown.corpus.shard",
    "homegrown.evaluation.evaluate",
    "homegrown.quantization.quantize",
    "homegrown.data.packing",
    "homegrown.tokenizer.train",
    "homegrown.training.launcher",
    "matplotlib.figure",
    "nltk",
)
_FORKS = "HOMEGROWN_TEST_FORKS"
"""The variable that makes the importing process the one that the others are forked from."""
_SETTINGS = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
}  # read when Prefect is imported, as the command's own


class Command:
    """`homegrown arguments…` in the folder `folder`, with what it prints as `stdout`; used as `subprocess.Popen` is."""

    def __init__(self, folder: Path, environment: Mapping[str, str], arguments: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        path = os.pathsep.join(place for place in sys.path if place)
        with mock.patch.dict(os.environ, _SETTINGS | {"PYTHONPATH": path, _FORKS: "1"}):
            forkserver.ensure_running()
        reader, writer = context.Pipe(duplex=False)
        environment = dict(environment) | _SETTINGS
        self._process = context.Process(target=_run, args=(writer, folder, environment, arguments))
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, if it has ended."""
        return self._process.exitcode

    def communicate(self) -> tuple[str, None]:
        """Return what it prints up to its end."""
        output = self.stdout.read()
        self.stdout.close()
        self._process.join()
        return output, None

    def kill(self) -> None:
        """Kill it, and it alone."""
        self._process.kill()


def _import() -> None:
    """Import what a command needs; none of it is looked through for garbage, here or in the forked processes."""
    gc.disable()
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()


def _run(output: Connection, folder: Path, environment: Mapping[str, str], arguments: tuple[str, ...]) -> None:
    from prefect.context import refresh_global_settings_context

    from homegrown.cli.main import cli

    gc.enable()
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    # Ignored where the tests run in the background of a shell, and so in all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, PREFECT_RESULTS_LOCAL_STORAGE_PATH=str(folder / "artifacts"))
    sys.argv = ["homegrown", *arguments]
    refresh_global_settings_context()
    cli()


if os.environ.get(_FORKS):
    _import()
