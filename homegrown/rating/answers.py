"""Ratings on disk: a Parquet table for each rater, with a row for each text."""

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
    "coherence": "Does it hang together, and follow from what stands before it?",
    "relevance": "Is it about what the given text is about?",
    "grammaticality": "Is it correct in the language it is in?",
    "creativity": "Does it say more than the most obvious thing?",
    "factuality": "Is what it claims true? Leave it open where it claims nothing.",
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
    """What one rater has answered so far, in `folder/<rater>.parquet`; every answer is on the disk once it is given."""

    def __init__(self, folder: Path, rater: str) -> None:
        """Open the rater's table, or begin one.

        Raises:
            UserError: the name cannot be that of a file, or the table is damaged.
        """
        if not _NAME.fullmatch(rater):
            raise UserError(
                f"The rater's name {rater!r} is not usable; take up to 40 letters, digits, '_', '.' or '-'."
            )
        self.rater = rater
        self._path = folder / f"{rater}.parquet"
        self._rows = _read(self._path).to_pylist() if self._path.exists() else []

    @property
    def rated(self) -> set[str]:
        """The ids of the items that have been answered."""
        return {row["item"] for row in self._rows}

    def add(self, item: Item, scores: Mapping[str, int | None]) -> None:
        """Keep the scores of an item, 1 to 5 for each criterion; None: left open. An earlier answer is replaced.

        Raises:
            ValueError: no score is given, or one is not from 1 to 5.
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
        UserError: there are none, or a table is damaged.
    """
    parts = parquet_parts(folder)
    if not parts:
        raise UserError(
            f"Nobody has rated anything yet ({folder} holds no answers); `homegrown rate` asks for ratings."
        )
    return pa.concat_tables(map(_read, parts))


def _read(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read().select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{path} is not a table of ratings, or is damaged; restore it or move it away.") from error
