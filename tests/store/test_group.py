"""A store that a group shares: processes of two of its users, and of one who is not in it."""

import os
import stat
from pathlib import Path

import pytest

from homegrown.store import garbage, runs
from homegrown.store.artifacts import Artifact, Order, Store, partial_of
from homegrown.store.digests import Digests
from homegrown.util import locks
from homegrown.util.progress import Outcome
from tests.other_user import ALICE, BOB, EVE, GROUP, done, needs_root, open_to_all

ORDER = Order("dedup", "code", {}, {})


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    open_to_all(tmp_path)
    root = tmp_path / "artifacts"
    root.mkdir()
    if os.geteuid() == 0:
        os.chown(root, 0, GROUP)
    root.chmod(0o2770)
    return root


@pytest.fixture(autouse=True)
def the_same_umask() -> object:
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


def find(root: Path) -> None:
    assert Store(root).find(ORDER.stage, ORDER.key)


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
    assert done(ALICE, lambda: interrupt(shared), umask=umask) == 0
    assert done(BOB, lambda: make(shared), umask=umask) == 0
    (made,) = Store(shared).all()
    assert (made.path / "attempts").read_text().split() == [str(ALICE), str(BOB)]
    assert done(ALICE, lambda: make(shared), umask=umask) == 0
    assert Store(shared).all() == [made]
    assert {name: run.author for name, run in runs.recorded(Store(shared)).items()} == {
        "shared": str(BOB),
        "shared-2": str(ALICE),
    }
    assert {path.stat().st_gid for path in shared.rglob("*")} == {GROUP}
    assert done(ALICE, lambda: collect(shared), umask=umask) == 0
    assert Store(shared).all() == []


@needs_root
def test_the_cache_of_digests_has_the_entries_of_both(shared: Path) -> None:
    def remember(name: str) -> None:
        (shared / name).write_text(name)
        os.utime(shared / name, (1, 1))
        with Digests(shared / ".state" / "digests.sqlite") as digests:
            digests._new[name, "sha256"] = (1, 1, 1, 1, name)

    assert done(ALICE, lambda: (Store(shared), remember("alice"))) == 0
    assert done(BOB, lambda: (Store(shared), remember("bob"))) == 0
    with Digests(shared / ".state" / "digests.sqlite") as digests:
        assert [digests._known(name, "sha256") for name in ("alice", "bob")] == [
            (1, 1, 1, 1, "alice"),
            (1, 1, 1, 1, "bob"),
        ]


@needs_root
def test_a_group_that_may_only_read_reads(shared: Path) -> None:
    assert done(ALICE, lambda: make(shared)) == 0
    shared.chmod(0o2750)
    os.chown(shared, ALICE, GROUP)
    (made,) = Store(shared).all()
    assert done(ALICE, lambda: collect(shared)) == 0
    assert done(ALICE, lambda: make(shared)) == 0
    (made,) = Store(shared).all()
    assert stat.S_IMODE((made.path / "attempts").stat().st_mode) == 0o644
    assert done(BOB, lambda: find(shared)) == 0
    assert done(BOB, lambda: collect(shared)) == 1
    assert done(EVE, lambda: find(shared)) == 1


@needs_root
def test_a_lock_for_all_users_of_the_machine(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    tmp_path.chmod(0o1777)
    lock = tmp_path / "gpu"

    def take() -> None:
        locks.make_public(lock)
        assert locks.try_acquire(lock)

    assert done(ALICE, take) == 0
    assert done(EVE, take) == 0
    locks.acquire(lock)
    assert done(BOB, take) == 1
    locks.release(lock)
