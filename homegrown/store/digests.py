"""SHA-256 of files and other values of their content, cached while size, times and inode stay the same.

The time of the last change of a file's facts (ctime) is one of these: an edit can keep all others.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

# A file that changes twice within one tick of the file system's clock keeps its time, so a file is only cached when its
# last change is older than any such tick (the "racy" rule of git's index).
_SETTLED_NS = 2_000_000_000
_Facts = tuple[int, int, int, int]
"""Size, time of modification, time of change, inode."""


class Digests:
    """A cache of digests in one SQLite file, which several processes can use at once.

    A damaged file is made anew; where none can be written, what it has is used and nothing is added.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._new: dict[tuple[str, str], tuple[*_Facts, str]] = {}
        self._database = self._opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Store the new values and close the cache."""
        if self._database is None:
            return
        try:
            if self._new:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(*which, *known) for which, known in self._new.items()],
                )
                self._database.execute("COMMIT")
        except sqlite3.DatabaseError as error:  # not to be written, a full disk, or damaged
            self._discard_if_damaged(error)
        self._database.close()

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file as 64 hex digits."""
        return self.of(path, "sha256", sha256)

    def of(self, path: Path, kind: str, compute: Callable[[Path], str]) -> str:
        """Return `compute(path)`, cached as `kind`; it must depend on nothing but the file's content."""
        facts = _facts_of(path)
        row = self._known(str(path.absolute()), kind)
        if row is not None and row[:-1] == facts:
            return str(row[-1])
        value = compute(path)
        self._remember(path, kind, facts, value)
        return value

    def know(self, path: Path, digest: str) -> None:
        """Take the SHA-256 of a file from whoever wrote it."""
        self._remember(path, "sha256", _facts_of(path), digest)

    def _remember(self, path: Path, kind: str, facts: _Facts, value: str) -> None:
        _, modified, changed, _ = facts
        if time.time_ns() - max(modified, changed) > _SETTLED_NS:
            self._new[str(path.absolute()), kind] = (*facts, value)

    def _known(self, name: str, kind: str) -> tuple[int | str, ...] | None:
        if self._database is None:
            return None
        try:
            row: tuple[int | str, ...] | None = self._database.execute(
                "SELECT size, modified, changed, inode, value FROM digests WHERE path = ? AND kind = ?", (name, kind)
            ).fetchone()
            return row
        except sqlite3.DatabaseError as error:
            self._database.close()
            self._discard_if_damaged(error)
            self._database = self._opened()
            return None

    def _opened(self) -> sqlite3.Connection | None:
        """Return the open cache, made anew if it is damaged; None if it does not exist and cannot be made."""
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            return _connect(self._cache)
        except OSError:
            return None
        except sqlite3.DatabaseError as error:
            if not self._discard_if_damaged(error):
                return None
        try:
            return _connect(self._cache)
        except sqlite3.DatabaseError:
            return None

    def _discard_if_damaged(self, error: sqlite3.DatabaseError) -> bool:
        """Delete the cache after an error that means damage; return whether it was deleted."""
        if isinstance(error, sqlite3.OperationalError):  # busy, read-only or full
            return False
        try:
            self._cache.unlink(missing_ok=True)
        except OSError:
            return False
        return True


def _facts_of(path: Path) -> _Facts:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _connect(cache: Path) -> sqlite3.Connection:
    if not cache.exists():
        cache.touch()  # with the permissions of this process; SQLite's own are for one user
    database = sqlite3.connect(cache, timeout=60, isolation_level=None)
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE IF NOT EXISTS digests (path TEXT, kind TEXT, size INT, modified INT, changed INT, inode INT, "
            "value TEXT, PRIMARY KEY (path, kind))"
        )
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, without the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
