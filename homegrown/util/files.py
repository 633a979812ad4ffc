"""Files written atomically with their digests, Parquet tables, and SQLite files that several processes write."""

import hashlib
import io
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from homegrown.util.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_shared: set[Path] = set()
"""Shared folders whose permissions new files of this process have."""

_WAIT = 30
"""Seconds for other processes that write an SQLite file."""


@contextmanager
def replacing(path: Path, *, scratch: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; sync and rename it into place on success, remove it on failure.

    Its name is unique: in a shared folder, two machines may write the same file. The digest of a file of an artifact is
    noted by its writer, unless it is `scratch` that is not published.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        sync(temporary)
        if not scratch and _is_unpublished(path) and temporary.is_file():
            with temporary.open("rb") as file:  # just written, so in the cache of the system
                _note(path, temporary, hashlib.file_digest(file, "sha256").hexdigest())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes replace `path` on success; the digest is taken from the stream."""
    with replacing(path, scratch=True) as temporary:
        with _Hashing(temporary) as stream:
            yield cast("BinaryIO", stream)
        if _is_unpublished(path):
            _note(path, temporary, stream.digest.hexdigest())


class _Hashing(io.RawIOBase):
    """A file open for writing, and the SHA-256 of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()


PARTIAL = ".partial"
"""The end of the name of an unpublished artifact's folder, which starts with a dot."""


def _is_unpublished(path: Path) -> bool:
    return any(part.startswith(".") and part.endswith(PARTIAL) for part in path.parts)


def _note(path: Path, written: Path, digest: str) -> None:
    _note_of(path).write_text(f"{_facts(written)} {digest}")


def note_digest(path: Path, digest: str) -> None:
    """Note the SHA-256 of an artifact's file that its writer took."""
    _note(path, path, digest)


def noted_digest(path: Path) -> str | None:
    """Return the SHA-256 that the writer of a file noted; None without a note, or if the file has changed since."""
    try:
        facts, _, digest = _note_of(path).read_text().rpartition(" ")
    except OSError:
        return None
    return digest if facts == _facts(path) and len(digest) == 64 else None


def _note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _facts(path: Path) -> str:
    """Return what a rename keeps and another write changes."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def is_shared(folder: Path) -> bool:
    """Return whether a folder has the setgid bit, which gives its new entries the folder's group."""
    try:
        return bool(folder.stat().st_mode & stat.S_ISGID)
    except OSError:
        return False


def share_new_files(folder: Path) -> None:
    """Give all files that this process and its children make from now on the group's permissions of a shared folder."""
    if folder not in _shared and is_shared(folder):
        _shared.add(folder)
        mask = os.umask(0o077)
        os.umask(mask & ~stat.S_IRWXG | ~folder.stat().st_mode & stat.S_IRWXG)


def share(path: Path, folder: Path) -> None:
    """Give a file or folder of this user the group's permissions of a shared folder; libraries may give it fewer."""
    status = path.stat()
    wanted = folder.stat().st_mode & (stat.S_IRWXG if stat.S_ISDIR(status.st_mode) else stat.S_IRGRP | stat.S_IWGRP)
    if status.st_uid == os.geteuid() and status.st_mode & wanted != wanted:
        path.chmod(stat.S_IMODE(status.st_mode) | wanted)


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Write `table` atomically as zstd Parquet with statistics."""
    import pyarrow.parquet as pq  # a cached run imports this module without writing tables

    repeating = [name for name in table.column_names if name != "text"]  # a dictionary of texts saves nothing
    with writing(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=16_384, use_dictionary=repeating)


def read_parquet(folder: Path, columns: list[str] | None = None) -> "pa.Table":
    """Return a small table, or some columns of it, from the Parquet shards in `folder`.

    `pyarrow.parquet.read_table` does the same but imports pandas if it is installed (0.6 s).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables(pq.ParquetFile(part).read(columns) for part in parquet_parts(folder))


def parquet_parts(folder: Path) -> list[Path]:
    """Return the Parquet shards of a table's folder in order; none if the folder is missing."""
    return sorted(folder.glob("*.parquet"))


@contextmanager
def database(path: Path, tables: str) -> Iterator[sqlite3.Connection]:
    """Yield the SQLite file `path`, made with `tables` if it is missing; each statement is a transaction of its own.

    Raises:
        UserError: the file is damaged, or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch()  # with the permissions of this process; SQLite's own are for one user
        with closing(sqlite3.connect(path, timeout=_WAIT, isolation_level=None)) as opened:
            opened.executescript(tables)
            yield opened
    except (sqlite3.DatabaseError, PermissionError) as error:
        raise UserError(f"{path} cannot be read or written ({error}); move it away or restore it.") from error
