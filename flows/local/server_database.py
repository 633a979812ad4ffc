"""The SQLite database of the Prefect server: its file, and its unused space."""

import sqlite3
from contextlib import closing
from pathlib import Path

from prefect.settings import get_current_settings
from sqlalchemy import make_url

_COMPACT_BYTES = 50_000_000
"""Unused space from which the database is compacted."""


def file() -> Path | None:
    """Return the file of the server's SQLite database; None for another kind of database."""
    url = get_current_settings().server.database.connection_url
    if url is None:
        return get_current_settings().home / "prefect.db"
    parts = make_url(url.get_secret_value())
    return Path(parts.database) if parts.get_backend_name() == "sqlite" and parts.database else None


def compact() -> tuple[int, int] | None:
    """Shrink the database, which no server uses, if half of it is unused; return its sizes before and after.

    Return None if it was not shrunk.
    """
    database = file()
    if database is None:
        return None
    try:
        with closing(sqlite3.connect(database.absolute().as_uri() + "?mode=rw", uri=True, timeout=1)) as opened:
            (page,) = opened.execute("PRAGMA page_size").fetchone()
            (unused,) = opened.execute("PRAGMA freelist_count").fetchone()
            (pages,) = opened.execute("PRAGMA page_count").fetchone()
            if page * unused < _COMPACT_BYTES or 2 * unused < pages:
                return None
            opened.execute("VACUUM")
    except sqlite3.Error:  # none yet, in use, or a full disk
        return None
    return page * pages, database.stat().st_size
