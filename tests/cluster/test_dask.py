"""Shards on a real Dask cluster: the same bytes, a killed worker's shard done again, machines that share no folder."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from homegrown.cluster import dask as engine
from homegrown.cluster.dask import dask_workers
from homegrown.config.compute import ComputeSettings
from homegrown.store.artifacts import Store
from homegrown.store.remote import Remote
from homegrown.util.errors import UserError
from homegrown.util.parallel import map_ordered
from tests.cluster import chain
from tests.cluster.conftest import Cluster
from tests.cluster.shards import Shard, number
from tests.corpus.made_up import corpus

pytestmark = pytest.mark.slow


def on_dask(address: str | None, workers: int = 1) -> ComputeSettings:
    return ComputeSettings(executor="dask", address=address, workers=workers)


def partial(store: Store) -> Path:
    folder = store.root / "toy" / ".1-0123456789abcdef.partial"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for part in range(3):
        lines = [json.dumps({"text": text}) for text in corpus(part, 90)]
        (folder / f"{part}.jsonl").write_text("\n".join([*lines, "broken"]))
    return folder


@pytest.fixture(scope="module")
def expected(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the stages make on this machine alone."""
    store = Store(tmp_path_factory.mktemp("alone"))
    chain.make(store, str(raw), lambda out: ThreadPoolExecutor(2))
    return chain.content(store)


def once(stage: str, call: int, act: Callable[[], None]) -> Callable[[str], None]:
    """Return a listener to progress that acts at a stage's n-th call."""
    seen: Counter[str] = Counter()

    def listen(name: str) -> None:
        seen[name] += 1
        if name == stage and seen[name] == call:
            act()

    return listen


def test_a_killed_worker_costs_its_shard_only(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    shards = [Shard(tmp_path, place, kills=place == 5) for place in range(12)]
    with dask_workers(on_dask(cluster.address, 2), store, partial(store)) as executor:
        results = list(map_ordered(executor, number, shards))
    assert [place for place, _ in results] == list(range(12))
    starts = Counter(int(mark.name.split("-")[0]) for mark in tmp_path.glob("*-*"))
    assert starts == {place: 2 if place == 5 else 1 for place in range(12)}


def test_the_same_bytes_as_without_a_cluster_though_a_worker_is_killed(
    cluster: Cluster, store: Store, raw: Path, expected: dict[str, str]
) -> None:
    cluster.have_workers()
    listen = once("filter", 1, cluster.kill_worker)
    chain.make(store, str(raw), lambda out: dask_workers(on_dask(cluster.address), store, out), listen)
    assert chain.content(store) == expected


def test_machines_that_share_no_folder_work_through_the_remote(
    cluster: Cluster, bucket: str, raw: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    if not cluster.hides:  # where no process may have its own view of the file system
        monkeypatch.setattr(engine, "_is_seen", lambda *_: False)
    root = cluster.hidden / "artifacts"
    cluster.have_workers()
    with pytest.raises(UserError, match=r"have no access to the folder .*HOMEGROWN_REMOTE"):
        alone = Store(root)
        chain.make(alone, str(raw), lambda out: dask_workers(on_dask(cluster.address), alone, out))
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.put(str(raw), f"{bucket}/raw", recursive=True)
    store = Store(root, Remote(f"{bucket}/artifacts"))

    def stop() -> None:
        raise KeyboardInterrupt

    def workers(out: Path) -> AbstractContextManager[Executor]:
        return dask_workers(on_dask(cluster.address), store, out)

    def run(listen: Callable[[str], None]) -> None:
        chain.make(store, f"{bucket}/raw", workers, listen)

    with pytest.raises(KeyboardInterrupt):
        run(once("dedup", 2, stop))
    assert any(".partial/" in name for name in files.find(f"{bucket}/artifacts"))
    run(lambda stage: None)
    made = store.all()
    found = {
        f"{one.path.relative_to(root)}/{name}": facts for one in made for name, facts in one.manifest.files.items()
    }
    assert {name: facts.sha256 for name, facts in found.items()} == expected
    for one in made:
        here = {path.name for path in one.path.rglob("*") if not path.name.startswith(".")}
        assert one.manifest.stage == "tokenizer" or here == {"manifest.json"}
        assert store.find(one.manifest.stage, one.manifest.key) == one, "complete, because the store has the files"
    assert [name for name in files.find(f"{bucket}/artifacts") if ".partial" in name] == []
    with pytest.raises(KeyboardInterrupt):
        chain.make(store, f"{bucket}/raw", workers, once("filter", 1, stop), fresh="filter")
    [interrupted] = store.interrupted()
    assert any(".partial/" in name for name in files.find(f"{bucket}/artifacts"))
    cluster.wait_for_running_shards()
    store.delete(interrupted)  # as `homegrown gc` does
    assert [name for name in files.find(f"{bucket}/artifacts") if ".partial" in name] == []


def test_the_cluster_enters_no_key() -> None:
    from homegrown.config.tokens import PackSettings, RowSettings
    from tasks.pack import pack
    from tasks.stage import Run

    orders = [
        pack.order(Run(1, compute), settings=PackSettings(), rows=RowSettings(context=None))
        for compute in (ComputeSettings(), on_dask("tcp://127.0.0.1:1"))
    ]
    assert orders[0].key == orders[1].key


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (on_dask(None), "compute.executor=dask needs an address"),
        (on_dask("tcp://10.1.2.3:8786"), "set DASK_SCHEDULER_ADDRESS=tcp://10.1.2.3:8786 in the environment"),
        (on_dask("tcp://127.0.0.1:1"), "No Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_a_wrong_address_is_one_message(
    store: Store, compute: ComputeSettings, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 1)
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    with pytest.raises(UserError, match=message), dask_workers(compute, store, partial(store)):
        pass


def test_a_missing_package_is_one_message(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    compute, out = on_dask("tcp://127.0.0.1:1"), partial(store)
    with pytest.raises(UserError, match=r"pip install 'homegrown\[dask\]'"), dask_workers(compute, store, out):
        pass


def test_workers_that_are_too_few_or_have_other_versions_are_refused(
    cluster: Cluster, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.address)
    monkeypatch.setattr(engine, "WORKERS_SECONDS", 1)
    out = partial(store)
    with pytest.raises(UserError, match=r"of 50 workers \(comp"), dask_workers(on_dask(None, 50), store, out):
        pass
    monkeypatch.setattr(engine, "facts", lambda module="": (("numpy", "0.1"),))
    refusal = r"has other versions .*numpy .* instead of 0\.1"
    with pytest.raises(UserError, match=refusal), dask_workers(on_dask(None), store, out):
        pass


def test_a_shard_that_kills_every_worker_and_a_lost_scheduler(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    cluster.have_workers()
    with dask_workers(on_dask(cluster.address, 2), store, partial(store)) as executor:
        poisonous = executor.submit(number, Shard(tmp_path, 1, kills=9))
        with pytest.raises(UserError, match=r"2 workers of tcp.* died on one shard \(number of /"):
            poisonous.result()
        waiting = executor.submit(time.sleep, 60)
        os.kill(cluster.scheduler, signal.SIGKILL)
        with pytest.raises(ConnectionError, match=r"Lost the Dask scheduler at tcp"):
            waiting.result()
