"""Fixtures that several packages' tests share."""

import gc
import os
import shutil
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from unittest import mock

import hypothesis
import pytest

from homegrown.store.artifacts import Store
from homegrown.util import locks

# Tests run side by side, and what they compute is tiny: more threads would wait for each other, and burn time so.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the imports of all test modules make stays: it is not looked through for garbage, neither now nor later.
gc.disable()

LONGEST = (
    "flows/test_survival.py",
    "training/test_pretrain.py",
    "flows/local/test_deployments.py",
    "security/test_secrets.py",
    "export/test_onnx.py",
    "export/test_architectures.py",
    "flows/test_pretrain.py",
    "finetuning/test_dpo.py",
    "flows/local/test_up.py",
    "export/test_huggingface.py",
    "cluster/test_dask.py",
    "flows/test_adapt.py",
    "flows/test_finetune.py",
    "flows/test_auto.py",
    "finetuning/test_finetune.py",
    "flows/test_rerun.py",
    "finetuning/test_parallel_adapters.py",
    "training/test_parallel.py",
    "flows/test_dpo.py",
    "tokenizer/test_encoding.py",
    "flows/test_export.py",
    "corpus/test_filter.py",
    "serving/test_serve.py",
    "tokenizer/test_existing.py",
)
"""The longest files, in the order in which processes take them.

Those that wait (for servers, killed processes, their workers) come by turns with those that compute. In a fresh clone
the first two compile the kernels of the corpus and of generation; what needs the same ones begins after them.
"""

UNUSED = {
    f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
    for service in ("CANCELLATION_CLEANUP", "FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "SCHEDULER")
}
"""What a Prefect server does every few seconds and no test needs."""

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")  # a busy machine is no failure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then those with most slow tests, so that processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    rank = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(item.path, len(rank)), -slow[item.path]))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or DuckDB prints at the end that all of its types were leaked


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture
def trains_here() -> Iterator[None]:
    """What trains, trains in this process: for tests of what comes before and after."""
    from tests.training.side_by_side import launched_here

    with launched_here():
        yield


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on loopback with a database of its own, for the whole session; yields its API's address."""
    folder, new = tmp_path_factory.mktemp("prefect"), _shared(tmp_path_factory) / "new-prefect.db"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    os.environ["PREFECT_HOME"] = str(folder)
    with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: folder}):
        from flows.local import server

        with ExitStack() as stack:
            with mock.patch.dict(os.environ, UNUSED), locks.exclusive(new.with_suffix(".lock")):
                if new.exists():
                    shutil.copy(new, folder / "prefect.db")
                stack.enter_context(server.running(folder / "server.log"))
                if not new.exists():
                    with closing(sqlite3.connect(folder / "prefect.db")) as made, closing(sqlite3.connect(new)) as copy:
                        made.backup(copy)
            yield api


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """The database of a server that is new: a server that begins with a copy is spared seconds of making its tables."""
    return _shared(tmp_path_factory) / "new-prefect.db"


@pytest.fixture
def in_prefect(prefect_server: str, store: Store) -> Iterator[Store]:
    """The store of flows that run in this process against the session's server, without heartbeats (they cost 1 s).

    Their shards run in this process too: each stage would start processes, whose imports take a second and more. Those
    are real in the tests of the command line and of deployed runs.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    from tasks.stage import Work

    settings = {PREFECT_LOCAL_STORAGE_PATH: store.root, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        temporary_settings(settings),
        mock.patch.dict(os.environ),  # commands set variables for their process
        mock.patch.object(Work, "executor", lambda work: ThreadPoolExecutor(work.compute.workers or 1)),
    ):
        yield store
