"""One worker of each phase of dedup and shard killed with SIGKILL: its shard is done again, and no byte differs."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from homegrown.cluster.dask import dask_workers
from homegrown.config.compute import ComputeSettings
from homegrown.config.corpus import DedupSettings, ShardSettings
from homegrown.corpus import duplicates
from homegrown.corpus.dedup import dedup
from homegrown.corpus.shard import shard
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.parallel import process_pool
from homegrown.util.progress import Outcome
from tests.cluster.conftest import Cluster
from tests.cluster.shards import marked
from tests.corpus.made_up import corpus, write_documents

pytestmark = pytest.mark.minutes

PHASES = ("_write_bands", "_write_links", "_cluster", "_spread", "_write")  # maps, join and verification, reduce
WORKERS = 8


class Deadly(Executor):
    """Marks the start of each shard; the second shard of each phase kills its worker, once."""

    def __init__(self, inner: Executor, marks: Path) -> None:
        self._max_workers = WORKERS
        self._inner = inner
        self._marks = marks
        self._calls: Counter[str] = Counter()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self._calls[fn.__name__] += 1
        number = self._calls[fn.__name__]
        fatal = fn.__name__ in PHASES and number == 2
        return self._inner.submit(marked, fn, self._marks / f"{fn.__name__}-{number}", fatal, *args)


Open = Callable[[Path], AbstractContextManager[Executor]]


def stages(store: Store, workers: Open, wrapped: Callable[[Executor], Executor]) -> dict[str, str]:
    """Make dedup and shard of the same documents; return the SHA-256 of all files."""
    found: dict[str, str] = {}
    given = store.root / "given" / "1-0123456789abcdef"
    for name in ("dedup", "shard"):

        def build(out: Path, name: str = name) -> Outcome:
            with workers(out) as pool:
                executor = wrapped(pool)
                if name == "dedup":
                    return dedup(out, given, DedupSettings(), seed=1, memory_gb=0.5, executor=executor)
                settings = ShardSettings(shard_mb=0.05, validation_share=0.1, test_share=0.1, max_similarity=0.4)
                return shard(out, given, settings, seed=1, executor=executor)

        order = Order(name, "", {}, {})
        artifact, _ = store.make(order, store.slot(name, order.key), build)
        found |= {f"{name}/{file}": facts.sha256 for file, facts in artifact.manifest.files.items()}
    return found


def documents(root: Path) -> Store:
    """Return a store with documents."""
    store = Store(root)

    def build(out: Path) -> Outcome:
        write_documents(out, corpus(5, 800), 100)
        return Outcome(1, 1)

    store.make(Order("given", "", {}, {}), store.root / "given" / "1-0123456789abcdef", build)
    return store


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of one process, whose join has one partition."""
    found = stages(documents(tmp_path / "alone"), lambda out: ThreadPoolExecutor(1), lambda pool: pool)
    monkeypatch.setattr(duplicates, "SMALL", 100)
    return found


def test_eight_workers_of_which_one_of_each_phase_is_killed(
    cluster: Cluster, tmp_path: Path, expected: dict[str, str]
) -> None:
    store = documents(tmp_path / "artifacts")
    compute = ComputeSettings(executor="dask", address=cluster.address, workers=WORKERS)
    marks = tmp_path / "marks"
    marks.mkdir()

    def workers(out: Path) -> AbstractContextManager[Executor]:
        cluster.have_workers(WORKERS)  # again for each stage, as killed ones stay dead
        cluster.wait_for_workers(WORKERS)
        return dask_workers(compute, store, out)

    found = stages(store, workers, lambda pool: Deadly(pool, marks))
    assert found == expected
    starts = Counter(mark.name.rpartition("-")[0] for mark in marks.iterdir())
    assert {name: count for name, count in starts.items() if count > 1} == {f"{phase}-2": 2 for phase in PHASES}


def test_a_killed_process_of_each_phase_costs_no_finished_shard(tmp_path: Path, expected: dict[str, str]) -> None:
    store = documents(tmp_path / "artifacts")
    marks = tmp_path / "marks"
    marks.mkdir()
    before: dict[Path, int] = {}
    for _ in PHASES:
        with pytest.raises(BrokenProcessPool):  # the task of the stage is tried again then
            stages(store, lambda out: process_pool(2), lambda pool: Deadly(pool, marks))
        files = [path for path in store.root.rglob("[!.]*.*") if path.is_file() and path.suffix != ".npy"]  # of shards
        here = {path: path.stat().st_ino for path in files}
        kept = before.keys() & here.keys()
        assert {path: here[path] for path in kept} == {path: before[path] for path in kept}
        before = here
    assert stages(store, lambda out: process_pool(2), lambda pool: Deadly(pool, marks)) == expected
