"""Files written atomically, Parquet tables, and SQLite files that several processes write."""

import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.util.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_shared: set[Path] = set()
"""Shared folders whose permissions new files of this process have."""

_WAIT = 30
"""Seconds for other processes that write an SQLite file."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; sync and rename it into place on success, remove it on failure.

    Its name is unique: in a shared folder, two machines may write the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=16_384, use_dictionary=repeating)


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
