"""The documents of a corpus most similar to a text, by the signatures that deduplication stores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.corpus.minhash import SHINGLE_WORDS, permutations, sketch
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts
from homegrown.util.seeds import derive


@dataclass(frozen=True)
class Match:
    """A similar document: its estimated Jaccard similarity to the text and the start of its own."""

    similarity: float
    id: str
    source: str
    path: str
    position: int
    text_start: str


def similar(text: str, signatures: Path, documents: Path, *, seed: int, most: int) -> list[Match]:
    """Return the `most` documents with the highest estimated Jaccard similarity above 0, the most similar first.

    `signatures` is the folder of the table of a dedup with the recipe's `seed`, `documents` the folder of its input.
    All signatures are compared: no index is needed, and documents that share no band are found too. Raises UserError
    for a text without words.
    """
    signature = None
    best: list[tuple[float, str]] = []
    for part in parquet_parts(signatures):
        ids, rows = _stored(part)
        if signature is None:
            signature = _signature(text, permutations(rows.shape[1], derive(seed, "dedup")))
        shares = (rows == signature).mean(axis=1)
        nearest = np.lexsort((ids, -shares))[:most]
        best = sorted([*best, *((-float(shares[row]), str(ids[row])) for row in nearest if shares[row])])[:most]
    found = _described(documents, [key for _, key in best])
    return [Match(similarity=-negative, id=key, **found[key]) for negative, key in best if key in found]


def _signature(text: str, permuted: NDArray[np.uint32]) -> NDArray[np.uint32]:
    sketches = sketch(pa.array([text]), SHINGLE_WORDS, permuted)
    if not sketches.words[0]:
        raise UserError("The text has no words to compare; give a text with words.")
    own: NDArray[np.uint32] = sketches.signatures[0]
    return own


def _stored(part: Path) -> tuple[NDArray[np.str_], NDArray[np.uint32]]:
    """Return ids (n,) and signatures (n, permutations) of a shard; of repeated ids, the first."""
    table = pq.read_table(part, columns=["id", "signature", "words"]).combine_chunks()
    column = table["signature"].combine_chunks()
    size = column.type.byte_width // 4
    rows = np.frombuffer(column.buffers()[1], "<u4")[: len(table) * size].reshape(-1, size)
    ids, first = np.unique(table["id"].to_numpy().astype(str), return_index=True)
    first, ids = first[table["words"].to_numpy()[first] > 0], ids[table["words"].to_numpy()[first] > 0]
    return ids, rows[first]


def _described(documents: Path, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return source, path, position and the start of the text of some documents, by id."""
    rows = duckdb.execute(
        """SELECT id, source, path, min(position) AS position, left(any_value(text), 200) AS text_start
        FROM read_parquet($files) WHERE list_contains($ids, id) GROUP BY ALL""",
        {"files": [str(part) for part in parquet_parts(documents)], "ids": ids},
    ).fetchall()
    names = ("source", "path", "position", "text_start")
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
