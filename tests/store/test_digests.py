"""The cache of digests: damaged, not to be written, and files that an edit made look unchanged."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.store import digests
from homegrown.store.artifacts import Store
from homegrown.store.digests import Digests
from homegrown.store.manifest import Order
from homegrown.util.progress import Outcome


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)


def test_an_edit_that_keeps_size_time_and_inode_is_found(tmp_path: Path, settled: None) -> None:
    file = tmp_path / "text"
    file.write_text("before")
    facts = file.stat()
    with Digests(tmp_path / "cache") as cache:
        assert cache.file(file) == hashlib.sha256(b"before").hexdigest()
    time.sleep(0.05)
    with file.open("r+") as edited:
        edited.write("after!")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    with Digests(tmp_path / "cache") as cache:
        assert cache.file(file) == hashlib.sha256(b"after!").hexdigest()


def test_a_value_is_computed_once(tmp_path: Path, settled: None) -> None:
    file = tmp_path / "text"
    file.write_text("text")
    with Digests(tmp_path / "cache") as cache:
        assert cache.of(file, "kind", lambda _: "first") == "first"
    with Digests(tmp_path / "cache") as cache:
        assert cache.of(file, "kind", lambda _: "second") == "first"


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, settled: None, where: str) -> None:
    files = [tmp_path / f"text-{number}" for number in range(300)]
    for file in files:
        file.write_text(file.name)
    cache = tmp_path / "cache"
    with Digests(cache) as known:
        first = [known.file(file) for file in files]
    if where == "start":
        cache.write_text("garbage")
    else:
        with cache.open("r+b") as damaged:
            damaged.seek(8192)
            damaged.write(b"\xff" * (cache.stat().st_size - 8192))
    for _ in range(2):
        with Digests(cache) as known:
            assert [known.file(file) for file in files] == first
    with Digests(cache) as known:
        assert known.of(files[0], "sha256", lambda _: "computed again") == first[0]


def test_the_cache_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with Digests(tmp_path / "file" / "cache") as known:
        assert known.file(tmp_path / "file") == hashlib.sha256(b"no folder").hexdigest()


def test_damaged_caches_of_a_store_are_made_anew(store: Store) -> None:
    def build(out: Path) -> Outcome:
        (out / "text").write_text("text")
        return Outcome(1, 1)

    order = Order("dedup", "code", {}, {})
    first, _ = store.make(order, store.slot("dedup", order.key), build)
    state = store.root / ".state"
    for cache in (state / "digests.sqlite", state / "dedup.version"):
        assert cache.exists()
        cache.write_text("garbage")
    assert store.find("dedup", order.key) == first
    second, _ = store.make(order, store.slot("dedup", order.key, fresh=True), build)
    assert second.manifest.version == 2


def test_verify_reads_what_the_cache_trusts(store: Store, settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(out: Path) -> Outcome:
        (out / "text").write_text("text")
        return Outcome(1, 1)

    order = Order("dedup", "code", {}, {})
    made, _ = store.make(order, store.slot("dedup", order.key), build)

    def verify() -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["--artifacts", str(store.root), "verify"])
        return done.exit_code, done.output

    assert verify() == (0, "1 artifact, 4 B read; none damaged.\n")
    facts = (made.path / "text").stat()
    assert store.damage(made) is None  # the digest is cached now
    (made.path / "text").write_text("tekst"[:4])
    really = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **more: facts if self.name == "text" else really(self, **more))
    assert store.damage(made) is None  # as a file system without such times would have it
    code, output = verify()
    assert code == 1
    assert "dedup@1: text has changed since it was published (its SHA-256 differs)" in output
    assert output.endswith("1 artifact, 4 B read; 1 damaged.\n")
