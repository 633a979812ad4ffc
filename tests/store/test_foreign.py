"""A store that this user may read and not write, and one on a full disk."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homegrown.store import runs
from homegrown.store.artifacts import Store, explained
from homegrown.store.manifest import Order
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome

_NOBODY = 65534
_WITHOUT_RIGHTS = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]


@pytest.fixture
def foreign(store: Store) -> Iterator[Store]:
    """A store with artifacts of a finished run, of another user where the tests run as root."""
    order = Order("dedup", "code", {}, {})

    def build(out: Path) -> Outcome:
        (out / "text").write_text("text")
        return Outcome(1, 1)

    def build_model(out: Path) -> Outcome:
        (out / "model").mkdir()
        (out / "model" / "config.json").write_text("{}")
        return Outcome(1, 1)

    def build_export(out: Path) -> Outcome:
        (out / "model.gguf").write_text("GGUF")
        (out / "Modelfile").write_text("FROM model.gguf")
        return Outcome(1, 1)

    model = Order("pretrain", "code", {}, {})
    store.make(model, store.slot("pretrain", model.key), build_model)
    exported = Order("export", "code", {"settings": {"format": "gguf", "type": "q8_0"}}, {"pretrain": model.key})
    store.make(exported, store.slot("export", exported.key), build_export)
    with runs.ongoing(store, "one", {"name": "tiny"}) as log:
        made, _ = store.make(order, store.slot("dedup", order.key), build)
        log.made("dedup", made.manifest.key, made.path.name)
        log.made("pretrain", model.key, store.resolve("pretrain").path.name)
        log.made("export", exported.key, store.resolve("export").path.name)
    paths = [store.root, *store.root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)
    yield store
    for path in paths:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def homegrown(store: Store, *arguments: str) -> "subprocess.CompletedProcess[str]":
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root without setpriv may write everything")
    command = [sys.executable, "-m", "homegrown.cli.main", "--artifacts", str(store.root), *arguments]
    return subprocess.run(
        [*(_WITHOUT_RIGHTS if os.geteuid() == 0 else []), *command], capture_output=True, text=True, check=False
    )


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["runs"], "one  tiny "),
        (["artifacts"], "dedup@1"),
        (["gc"], "Nothing to delete."),
        (["status"], "No Prefect server answers at"),
        (["run", "tiny", "--until", "dedup", "--dry-run"], "2 of 2 stages would run."),
    ],
)
def test_reading_commands_work_on_a_foreign_store(
    foreign: Store, monkeypatch: pytest.MonkeyPatch, arguments: list[str], shown: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = homegrown(foreign, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


@pytest.mark.minutes
@pytest.mark.parametrize(
    "arguments", [["gc", "--yes"], ["up"], ["run", "tiny", "--until", "ingest"]], ids=["gc", "up", "run"]
)
def test_writing_commands_print_one_message(
    foreign: Store, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = homegrown(foreign, *arguments)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: The artifact store {foreign.root} cannot be written (Permission denied); choose another with "
        "--artifacts.\n"
    )


@pytest.mark.minutes
def test_an_export_that_a_foreign_store_has_is_copied(foreign: Store, tmp_path: Path) -> None:
    done = homegrown(foreign, "export", "--to", "gguf", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "model.gguf").read_text() == "GGUF"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own that is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a disk")
    try:
        Store(folder / "artifacts").slot("dedup", "0" * 64)
        with (folder / "fill").open("wb", buffering=0) as fill:
            try:
                while True:
                    fill.write(bytes(4096))
            except OSError:
                pass
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_when_a_run_starts_is_one_message(full_disk: Path) -> None:
    run = runs.ongoing(Store(full_disk / "artifacts"), "one", {"name": "tiny"})
    with pytest.raises(UserError, match=r"The disk of .* is full .*free some space"), run:
        pass
    with pytest.raises(UserError, match=r"The disk of .* is full .*free some space"):
        Store(full_disk / "artifacts").slot("ingest", "1" * 64)


def test_something_in_the_way_of_the_state_is_one_message(store: Store) -> None:
    version = store.root / ".state" / "dedup.version"
    version.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{version} is a folder where none belongs; delete it\."):
        store.slot("dedup", "0" * 64)
    shutil.rmtree(store.root)
    (store.root / ".state").mkdir(parents=True)
    locks = store.root / ".state" / "locks"
    locks.write_text("")
    with pytest.raises(OSError) as raised:
        store.slot("dedup", "0" * 64)
    assert str(explained(raised.value, store.root)) == f"{locks} is a file where none belongs; delete it."
