"""Shards on machines without access to the artifacts folder: their files travel through the remote.

The arguments of a shard's function name files by path. Paths below the artifacts folder become names on the way to a
worker, and paths in the worker's own folder there. The worker downloads the files that the shard reads, and uploads
those that it wrote.
"""

import dataclasses
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from homegrown.store.digests import sha256
from homegrown.store.remote import Damaged, Remote
from homegrown.util.errors import UserError
from homegrown.util.files import note_digest, noted_digest


@dataclass(frozen=True)
class Name:
    """A path relative to the artifacts folder."""

    name: str


@dataclass(frozen=True)
class Parcel:
    """The input of a shard besides its function: arguments, and the SHA-256 of files by name."""

    remote: str
    partial: str
    """Name of the output folder."""
    arguments: tuple[Any, ...]
    own: dict[str, str] = field(default_factory=dict)
    """Files of this shard alone."""
    shared: dict[str, str] = field(default_factory=dict)
    """Files that other shards read too, such as the tokenizer; a worker keeps them."""


@dataclass(frozen=True)
class Delivery:
    """The output of a shard: its result, and the SHA-256 of its files by name, in the order of writing."""

    result: Any
    written: dict[str, str]


class Relay:
    """The relay on the machine that runs the stage, for one partial folder."""

    def __init__(self, remote: Remote, root: Path, out: Path) -> None:
        self._remote = remote
        self._root = root
        self._partial = out.relative_to(root).as_posix()
        self._there: dict[str, str] = {}  # files of the partial folder on the remote
        self._journal = out / ".delivered"  # hidden: publishing removes it
        self._lock = threading.Lock()
        self._delivered: dict[str, list[str]] = {}
        if self._journal.exists():
            lines = self._journal.read_text().splitlines(keepends=True)
            self._delivered = dict(json.loads(line) for line in lines if line.endswith("\n"))

    def has(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
        """Return whether an earlier, killed run delivered this shard; a local call then has nothing left to do."""
        names = self._delivered.get(self._identity(function, arguments), [])
        return bool(names) and all((self._root / name).is_file() for name in names)

    def pack(self, arguments: tuple[Any, ...]) -> Parcel:
        """Return the parcel of a shard; files that the remote lacks are uploaded."""
        parcel = Parcel(self._remote.address, self._partial, _named(arguments, self._root))
        for name in _names(parcel.arguments):
            path = self._root / name
            if not PurePosixPath(name).is_relative_to(self._partial):
                (parcel.own if path.is_file() else parcel.shared).update(self._published(name))
            elif path.is_file():
                if name not in self._there:
                    self._remote.upload(self._root, [name])
                    self._there[name] = sha256(path)
                parcel.own[name] = self._there[name]
        return parcel

    def unpack(self, function: Callable[..., Any], arguments: tuple[Any, ...], delivery: Delivery) -> Any:
        """Download the files of a shard and return its result; files appear in the order of writing."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self._root / self._partial) as folder:
            try:
                self._remote.download(Path(folder), delivery.written)
            except Damaged as error:
                raise OSError(f"Files of a worker arrived damaged: {error}.") from error
            for name in delivery.written:
                place = self._root / name
                place.parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).replace(place)
                note_digest(place, delivery.written[name])
        self._there |= delivery.written
        with self._lock, self._journal.open("a") as journal:
            journal.write(json.dumps([self._identity(function, arguments), list(delivery.written)]) + "\n")
        return _located(delivery.result, self._root)

    def _published(self, name: str) -> dict[str, str]:
        """Return the files of a published artifact at or below `name`, with their digests."""
        stage, folder, *_ = PurePosixPath(name).parts
        files = {f"{stage}/{folder}/{file}": digest for file, digest in _digests(self._root / stage / folder).items()}
        return {file: digest for file, digest in files.items() if PurePosixPath(file).is_relative_to(name)}

    def _identity(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
        """Return what identifies a shard within the stage: its function and its paths."""
        return " ".join([function.__qualname__, *sorted(_names(_named(arguments, self._root)))])


def run(function: Callable[..., Any], parcel: Parcel) -> Delivery:
    """Run a shard's function on a worker: download its files first, upload its output afterwards."""
    remote, root = Remote(parcel.remote), _workplace()
    try:
        missing = {name: digest for name, digest in parcel.shared.items() if not (root / name).exists()}
        try:
            remote.download(root, parcel.own | missing)
        except Damaged as error:
            raise UserError(f"{error}; delete its folder on the remote, and run again.") from error
        (root / parcel.partial).mkdir(parents=True, exist_ok=True)
        result = function(*_located(parcel.arguments, root))
        paths = [path for path in (root / parcel.partial).rglob("[!.]*") if path.is_file()]
        paths.sort(key=lambda path: path.stat().st_mtime_ns)
        written = [name for path in paths if (name := path.relative_to(root).as_posix()) not in parcel.own]
        remote.upload(root, written)
        digests = {name: noted_digest(root / name) or sha256(root / name) for name in written}
        return Delivery(_named(result, root), digests)
    finally:
        shutil.rmtree(root / parcel.partial, ignore_errors=True)
        for name in parcel.own:
            (root / name).unlink(missing_ok=True)


_own = threading.local()


def _workplace() -> Path:
    """Return a folder for this thread; on a Dask worker inside the worker's folder, which Dask deletes."""
    if not hasattr(_own, "folder"):
        try:
            from distributed import get_worker

            parent: str | None = get_worker().local_directory
        except (ImportError, ValueError):
            parent = None
        _own.folder = Path(tempfile.mkdtemp(prefix="homegrown-", dir=parent))
    folder: Path = _own.folder
    return folder


@cache
def _digests(artifact: Path) -> dict[str, str]:
    files = json.loads((artifact / "manifest.json").read_bytes())["files"]
    return {name: facts["sha256"] for name, facts in files.items()}


def _named(value: Any, root: Path) -> Any:
    return _replaced(
        value,
        lambda part: (
            Name(part.relative_to(root).as_posix()) if isinstance(part, Path) and part.is_relative_to(root) else part
        ),
    )


def _located(value: Any, root: Path) -> Any:
    return _replaced(value, lambda part: root / part.name if isinstance(part, Name) else part)


def _names(value: Any) -> list[str]:
    return [part.name for part in _parts(value) if isinstance(part, Name)]


def paths(value: Any) -> list[Path]:
    """Return the paths in the arguments of a shard's function."""
    return [part for part in _parts(value) if isinstance(part, Path)]


def _parts(value: Any) -> list[Any]:
    found: list[Any] = []

    def note(part: Any) -> Any:
        found.append(part)
        return part

    _replaced(value, note)
    return found


def _replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with `change` applied to each part of its dataclasses, tuples, lists and dictionaries."""
    changed = change(value)
    if changed is not value:
        return changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Name):
        parts = {part.name: _replaced(getattr(value, part.name), change) for part in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, tuple):
        items = [_replaced(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_replaced(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _replaced(item, change) for name, item in value.items()}
    return value
