"""A store that a group shares: processes of two of its users, and of one who is not in it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from homegrown.store import garbage, runs
from homegrown.store.artifacts import Store, partial_of
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact, Order
from homegrown.util import locks
from homegrown.util.progress import Outcome
from tests.other_user import ALICE, BOB, EVE, GROUP, done, needs_root, open_folder

ORDER = Order("dedup", "code", {}, {})


@pytest.fixture
def shared() -> Iterator[Path]:
    with open_folder() as folder:
        root = folder / "artifacts"
        root.mkdir()
        if os.geteuid() == 0:
            os.chown(root, 0, GROUP)
        root.chmod(0o2770)
        yield root


@pytest.fixture(autouse=True)
def the_same_umask() -> Iterator[None]:
    mask = os.umask(0o022)
    yield
    os.umask(mask)


def make(root: Path) -> Artifact:
    """Make the artifact in a recorded run, with a private file, as some libraries write them."""
    store = Store(root)
    with runs.ongoing(store, "shared", {"name": "tiny"}) as log:

        def build(out: Path) -> Outcome:
            folder = out / "model"
            folder.mkdir(exist_ok=True)
            os.close(os.open(folder / "weights", os.O_CREAT | os.O_RDWR, 0o600))
            with (out / "attempts").open("a") as file:
                file.write(f"{os.geteuid()}\n")
            return Outcome(1, 1)

        slot = store.slot(ORDER.stage, ORDER.key)
        made, _ = store.make(ORDER, slot, build)
        log.made(ORDER.stage, ORDER.key, made.path.name)
    store.damage(made)  # fills the cache of digests
    return made


def interrupt(root: Path) -> None:
    """Leave a partial artifact behind."""
    store = Store(root)
    partial = partial_of(store.slot(ORDER.stage, ORDER.key))
    (partial / "model").mkdir()
    (partial / "attempts").write_text(f"{os.geteuid()}\n")


def collect(root: Path) -> None:
    deleted, left = garbage.collect(Store(root), 0, [])
    assert deleted and not left


def remember(root: Path, name: str) -> None:
    Store(root)
    with Digests(root / ".state" / "digests.sqlite") as digests:
        digests._new[name, "sha256"] = (1, 1, 1, 1, name)


def find(root: Path) -> None:
    assert Store(root).find(ORDER.stage, ORDER.key)


def take(lock: Path) -> None:
    locks.make_public(lock)
    assert locks.try_acquire(lock)


def test_new_files_have_the_permissions_of_a_shared_root(shared: Path) -> None:
    make(shared)
    for path in shared.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = 0o2070 if path.is_dir() else 0o060
        assert mode & wanted == wanted, (path, oct(mode))


def test_a_store_of_one_user_keeps_the_umask(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir(mode=0o777)
    os.umask(0o077)
    made = make(tmp_path / "artifacts")
    assert stat.S_IMODE((made.path / "attempts").stat().st_mode) == 0o600
    assert os.umask(0o022) == 0o077


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_two_users_resume_reuse_and_delete_each_others_work(shared: Path, umask: int) -> None:
    assert done(ALICE, interrupt, shared, umask=umask) == 0
    assert done(BOB, make, shared, umask=umask) == 0
    (made,) = Store(shared).all()
    assert (made.path / "attempts").read_text().split() == [str(ALICE), str(BOB)]
    assert done(ALICE, make, shared, umask=umask) == 0
    assert Store(shared).all() == [made]
    assert {name: run.author for name, run in runs.recorded(Store(shared)).items()} == {
        "shared": str(BOB),
        "shared-2": str(ALICE),
    }
    assert {path.stat().st_gid for path in shared.rglob("*")} == {GROUP}
    assert done(ALICE, collect, shared, umask=umask) == 0
    assert Store(shared).all() == []


@needs_root
def test_the_cache_of_digests_has_the_entries_of_both(shared: Path) -> None:
    assert done(ALICE, remember, shared, "alice") == 0
    assert done(BOB, remember, shared, "bob") == 0
    with Digests(shared / ".state" / "digests.sqlite") as digests:
        assert [digests._known(name, "sha256") for name in ("alice", "bob")] == [
            (1, 1, 1, 1, "alice"),
            (1, 1, 1, 1, "bob"),
        ]


@needs_root
def test_a_group_that_may_only_read_reads(shared: Path) -> None:
    assert done(ALICE, make, shared) == 0
    shared.chmod(0o2750)
    os.chown(shared, ALICE, GROUP)
    (made,) = Store(shared).all()
    assert done(ALICE, collect, shared) == 0
    assert done(ALICE, make, shared) == 0
    (made,) = Store(shared).all()
    assert stat.S_IMODE((made.path / "attempts").stat().st_mode) == 0o644
    assert done(BOB, find, shared) == 0
    assert done(BOB, collect, shared) == 1
    assert done(EVE, find, shared) == 1


@needs_root
def test_a_lock_for_all_users_of_the_machine() -> None:
    with open_folder() as folder:
        folder.chmod(0o1777)
        lock = folder / "gpu"
        assert done(ALICE, take, lock) == 0
        assert done(EVE, take, lock) == 0
        locks.acquire(lock)
        assert done(BOB, take, lock) == 1
        locks.release(lock)
