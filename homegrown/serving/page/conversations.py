"""The page's conversations, in one SQLite file of the store."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homegrown.util.files import database

FILE = "conversations.sqlite"

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
        with database(self._path, _TABLE) as opened:
            rows = opened.execute("SELECT id, title, updated FROM conversations ORDER BY updated DESC").fetchall()
        return [dict(zip(("id", "title", "updated"), row, strict=True)) for row in rows]

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the content of a conversation, None without one."""
        with database(self._path, _TABLE) as opened:
            row = opened.execute("SELECT content FROM conversations WHERE id = ?", (name,)).fetchone()
        found: dict[str, Any] | None = json.loads(row[0]) if row else None
        return found

    def put(self, name: str, title: str, content: dict[str, Any]) -> None:
        """Keep a conversation; replaces its previous content."""
        row = (name, title, datetime.now(UTC).isoformat(), json.dumps(content, ensure_ascii=False))
        with database(self._path, _TABLE) as opened:
            opened.execute("INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?)", row)

    def delete(self, name: str) -> None:
        """Delete a conversation, if there is one."""
        with database(self._path, _TABLE) as opened:
            opened.execute("DELETE FROM conversations WHERE id = ?", (name,))
