"""Ratings on disk: one Parquet table per rater, one row per completion."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.rating.items import Item
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts, write_parquet

CRITERIA = {
    "coherence": "Is it consistent, and does it follow from the prompt?",
    "relevance": "Does it keep to the topic of the prompt?",
    "grammaticality": "Is its grammar correct?",
    "creativity": "Does it add something that is not obvious?",
    "factuality": "Are its claims true? Skip this if it makes none.",
}
LOWEST, HIGHEST = 1, 5

SCHEMA = pa.schema(
    [
        ("rater", pa.string()),
        ("rated", pa.timestamp("us", tz="UTC")),
        ("item", pa.string()),
        ("systems", pa.list_(pa.string())),
        ("prompt", pa.string()),
        ("text", pa.string()),
        *((name, pa.int8()) for name in CRITERIA),
    ]
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class Answers:
    """The ratings of one rater in `folder/<rater>.parquet`; each is saved as soon as it is given."""

    def __init__(self, folder: Path, rater: str) -> None:
        """Open the rater's table, or start one.

        Raises:
            UserError: the name is not usable as a file name, or the table is damaged.
        """
        if not _NAME.fullmatch(rater):
            raise UserError(f"The rater's name {rater!r} is not valid; use up to 40 letters, digits, '_', '.' or '-'.")
        self.rater = rater
        self._path = folder / f"{rater}.parquet"
        self._rows = _read(self._path).to_pylist() if self._path.exists() else []

    @property
    def rated(self) -> set[str]:
        """The ids of the rated items."""
        return {row["item"] for row in self._rows}

    def add(self, item: Item, scores: Mapping[str, int | None]) -> None:
        """Save the scores of an item, 1 to 5 per criterion, None for a skipped one; replaces an earlier rating.

        Raises:
            ValueError: there is no score, or one is not from 1 to 5.
        """
        given = [score for score in scores.values() if score is not None]
        if not given or any(not LOWEST <= score <= HIGHEST for score in given):
            raise ValueError(f"give at least one score, each from {LOWEST} to {HIGHEST}")
        row: dict[str, Any] = {
            "rater": self.rater,
            "rated": datetime.now(UTC),
            "item": item.id,
            "systems": list(item.systems),
            "prompt": item.prompt,
            "text": item.text,
            **{name: scores.get(name) for name in CRITERIA},
        }
        rows = [*(earlier for earlier in self._rows if earlier["item"] != item.id), row]
        write_parquet(self._path, pa.Table.from_pylist(rows, schema=SCHEMA))
        self._rows = rows


def all_answers(folder: Path) -> pa.Table:
    """Return the rows of all raters, by `SCHEMA`.

    Raises:
        UserError: there are no ratings, or a table is damaged.
    """
    parts = parquet_parts(folder)
    if not parts:
        raise UserError(f"{folder} has no ratings yet; collect some with `homegrown rate`.")
    return pa.concat_tables(map(_read, parts))


def _read(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read().select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{path} is not a table of ratings or is damaged; restore it or move it away.") from error
