"""Shards on machines without access to the artifacts folder: their files go from worker to store to worker.

The arguments of a shard's function name files by path. Paths below the artifacts folder become names on the way to a
worker, and paths in the worker's own folder there. The worker downloads the files that the shard reads, except those of
which it reads a part, and uploads those that it wrote. The machine that runs the stage gets names, sizes and digests.
"""

import dataclasses
import json
import shutil
import tempfile
import threading
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from homegrown.store.digests import sha256
from homegrown.store.manifest import MANIFEST
from homegrown.store.remote import Damaged, Remote
from homegrown.util import elsewhere
from homegrown.util.elsewhere import BY_RANGE, There
from homegrown.util.errors import UserError
from homegrown.util.files import noted_digest

_KEPT_BYTES = 8_000_000_000
"""Files that a worker keeps for its next shards, such as the tokenizer and an index of all documents."""


@dataclass(frozen=True)
class Name:
    """A path relative to the artifacts folder."""

    name: str


@dataclass(frozen=True)
class Parcel:
    """The input of a shard besides its function: arguments, and where the files that it reads are."""

    remote: str
    partial: str
    """Name of the output folder."""
    arguments: tuple[Any, ...]
    files: dict[str, There]


@dataclass(frozen=True)
class Delivery:
    """The output of a shard: its result, and where its files are, by name."""

    result: Any
    written: dict[str, There]


class ThroughStore:
    """The exchange of one partial folder, on the machine that runs the stage."""

    def __init__(self, remote: Remote, root: Path, out: Path) -> None:
        self._remote = remote
        self._root = root
        self._partial = out.relative_to(root).as_posix()
        self._sent: dict[str, There] = {}  # files that this machine wrote
        self._journal = out / ".delivered"  # hidden: publishing removes it
        self._lock = threading.Lock()
        self._delivered: dict[str, tuple[list[str], Any]] = {}
        if self._journal.exists():
            self._resume(out)

    def _resume(self, out: Path) -> None:
        """Read the journal of an interrupted run; forget what is no longer at the store."""
        there = self._remote.names(self._partial)
        for name in elsewhere.files_below(out):
            if f"{self._partial}/{name}" not in there:
                elsewhere.forget(out / name)
        for line in self._journal.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                shard, names, result = json.loads(line)
                self._delivered[shard] = names, result

    def delivered(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any] | None:
        """Return the result of a shard, in a tuple, if an earlier, killed run delivered it and all files are there."""
        names, result = self._delivered.get(self._identity(function, arguments), ([], None))
        if not names or not all(elsewhere.noted(self._root / name) for name in names):
            return None
        return (_returned(function).validate_python(result),)

    def pack(self, arguments: tuple[Any, ...]) -> Parcel:
        """Return the parcel of a shard; files that only this machine has are uploaded."""
        parcel = Parcel(self._remote.address, self._partial, _named(arguments, self._root), {})
        for name in _names(parcel.arguments):
            path = self._root / name
            if not PurePosixPath(name).is_relative_to(self._partial):
                parcel.files.update(self._published(name))
            elif there := elsewhere.noted(path):
                parcel.files[name] = there
            elif path.is_file():
                if name not in self._sent:
                    self._remote.upload({name: path})
                    self._sent[name] = _described(self._remote, name, path)
                parcel.files[name] = self._sent[name]
        return parcel

    def unpack(self, function: Callable[..., Any], arguments: tuple[Any, ...], delivery: Delivery) -> Any:
        """Note where the files of a shard are, and return its result."""
        for name, there in delivery.written.items():
            elsewhere.note(self._root / name, there)
        result = _located(delivery.result, self._root)
        if delivery.written:
            entry = [
                self._identity(function, arguments),
                list(delivery.written),
                _returned(function).dump_python(result, mode="json"),
            ]
            with self._lock, self._journal.open("a") as journal:
                journal.write(json.dumps(entry) + "\n")
        return result

    def _published(self, name: str) -> dict[str, There]:
        """Return the files of a published artifact at or below `name`."""
        stage, folder, *_ = PurePosixPath(name).parts
        files = _files(self._root / stage / folder)
        return {
            file: There(self._remote.address, file, facts["bytes"], facts["sha256"])
            for own, facts in files.items()
            if PurePosixPath(file := f"{stage}/{folder}/{own}").is_relative_to(name)
        }

    def _identity(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
        """Return what identifies a shard within the stage: its function and its paths."""
        return " ".join([function.__qualname__, *sorted(_names(_named(arguments, self._root)))])


def _described(remote: Remote, name: str, path: Path) -> There:
    digest = "" if path.suffix in BY_RANGE else noted_digest(path) or sha256(path)
    return There(remote.address, name, path.stat().st_size, digest)


@cache
def _returned(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """Return what reads and writes a function's result as JSON, by its declared type."""
    return TypeAdapter(typing.get_type_hints(function).get("return", Any))


@cache
def _files(artifact: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((artifact / MANIFEST).read_bytes())["files"]
    return files


# --- on a worker ------------------------------------------------------------------------------------------------------


def run(function: Callable[..., Any], parcel: Parcel) -> Delivery:
    """Run a shard's function on a worker: download its files first, upload its output afterwards."""
    remote, place = Remote(parcel.remote), _workplace()
    partial = place.root / parcel.partial
    try:
        partial.mkdir(parents=True, exist_ok=True)
        place.bring(remote, parcel.files)
        result = function(*_located(parcel.arguments, place.root))
        paths = {path.relative_to(place.root).as_posix(): path for path in partial.rglob("[!.]*") if path.is_file()}
        written = {name: path for name, path in sorted(paths.items()) if name not in parcel.files}
        remote.upload(written)
        return Delivery(
            _named(result, place.root), {name: _described(remote, name, path) for name, path in written.items()}
        )
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for name in parcel.files:
            (place.root / name).unlink(missing_ok=True)


class _Workplace:
    """A folder for the shards of one thread, and the files that it keeps for later ones, by digest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._kept: dict[str, int] = {}  # bytes, the last used at the end

    def bring(self, remote: Remote, files: dict[str, There]) -> None:
        """Download files, or note where they are if a shard reads a part of them."""
        complete = {}
        for name, there in files.items():
            if there.sha256:
                complete[name] = there
            else:
                elsewhere.note(self.root / name, there)
        digests = {there.sha256: name for name, there in complete.items()}
        missing = {name: digest for digest, name in digests.items() if digest not in self._kept}
        try:
            remote.download({name: self._place(digest) for name, digest in missing.items()}, missing)
        except Damaged as error:
            raise UserError(f"{error}; delete its folder there, and run again.") from error
        for name, there in complete.items():
            self._kept.pop(there.sha256, None)
            self._kept[there.sha256] = there.bytes
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.hardlink_to(self._place(there.sha256))
        total = sum(self._kept.values())
        for digest, size in list(self._kept.items()):
            if total <= _KEPT_BYTES:
                break
            self._place(digest).unlink()
            del self._kept[digest]
            total -= size

    def _place(self, digest: str) -> Path:
        return self.root / ".kept" / digest


_own = threading.local()


def _workplace() -> _Workplace:
    """Return the folder of this thread; on a Dask worker inside the worker's folder, which Dask deletes."""
    if not hasattr(_own, "place"):
        try:
            from distributed import get_worker

            parent: str | None = get_worker().local_directory
        except (ImportError, ValueError):
            parent = None
        _own.place = _Workplace(Path(tempfile.mkdtemp(prefix="homegrown-", dir=parent)))
    place: _Workplace = _own.place
    return place


# --- paths and names --------------------------------------------------------------------------------------------------


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
