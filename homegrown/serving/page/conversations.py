"""The page's conversations, in one SQLite file of the store."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homegrown.util.errors import UserError

FILE = "conversations.sqlite"

_WAIT = 30
"""Seconds for other processes that write."""

_TABLE = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, updated TEXT NOT NULL, content TEXT NOT NULL
)
"""


class Conversations:
    """The conversations in a file; their content is the page's own."""

    def __init__(self, path: Path):
        self._path = path

    def all(self) -> list[dict[str, str]]:
        """Return id, title and time of all conversations, the newest first."""
        with self._open() as database:
            rows = database.execute("SELECT id, title, updated FROM conversations ORDER BY updated DESC").fetchall()
        return [dict(zip(("id", "title", "updated"), row, strict=True)) for row in rows]

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the content of a conversation, None without one."""
        with self._open() as database:
            row = database.execute("SELECT content FROM conversations WHERE id = ?", (name,)).fetchone()
        found: dict[str, Any] | None = json.loads(row[0]) if row else None
        return found

    def put(self, name: str, title: str, content: dict[str, Any]) -> None:
        """Keep a conversation; replaces its previous content."""
        row = (name, title, datetime.now(UTC).isoformat(), json.dumps(content, ensure_ascii=False))
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?)", row)

    def delete(self, name: str) -> None:
        """Delete a conversation, if there is one."""
        with self._open() as database:
            database.execute("DELETE FROM conversations WHERE id = ?", (name,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)) as database:
                database.execute(_TABLE)
                yield database
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self._path} cannot be read or written ({error}); move it away or restore it.") from error
