"""SHA-256 of files and other values of their content, cached while size, time and inode stay the same."""

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


class Digests:
    """A cache of digests in one SQLite file, which several processes can use at once."""

    def __init__(self, cache: Path) -> None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(cache, timeout=60, isolation_level=None)
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS known (path TEXT, kind TEXT, size INT, time INT, inode INT, value TEXT, "
            "PRIMARY KEY (path, kind))"
        )
        self._new: dict[tuple[str, str], tuple[int, int, int, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Store the new values and close the cache."""
        if self._new:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?, ?)",
                [(*which, *known) for which, known in self._new.items()],
            )
            self._database.execute("COMMIT")
        self._database.close()

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file as 64 hex digits."""
        return self.of(path, "sha256", sha256)

    def of(self, path: Path, kind: str, compute: Callable[[Path], str]) -> str:
        """Return `compute(path)`, cached as `kind`; it must depend on nothing but the file's content."""
        name = str(path.absolute())
        status = path.stat()
        facts = (status.st_size, status.st_mtime_ns, status.st_ino)
        row = self._database.execute(
            "SELECT size, time, inode, value FROM known WHERE path = ? AND kind = ?", (name, kind)
        ).fetchone()
        if row is not None and row[:3] == facts:
            return str(row[3])
        value = compute(path)
        if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
            self._new[name, kind] = (*facts, value)
        return value


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, without the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
