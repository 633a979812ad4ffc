"""What in a corpus is like a text: its signature beside those that deduplication has stored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.recipe import DedupSettings
from homegrown.corpus.dedup import effective_banding
from homegrown.corpus.minhash import permutations, sketch
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts
from homegrown.util.seeds import derive


@dataclass(frozen=True)
class Match:
    """A document like the text asked for, with its estimated Jaccard similarity and the start of its text."""

    similarity: float
    id: str
    source: str
    path: str
    position: int
    text_start: str


def similar(
    text: str, signatures: Path, documents: Path, settings: DedupSettings, *, seed: int, most: int
) -> list[Match]:
    """Return the `most` documents with the highest estimated Jaccard similarity above 0, the most similar first.

    `signatures` is the table's folder of a dedup with these settings and the recipe's `seed`, `documents` that of what
    it was made from. Every signature is compared, so what agrees in no band is found too, and nothing is to be built
    before; `index` gives datasketch's LSH over the same signatures. Raises UserError for a text without words.
    """
    signature = _signature(text, settings, seed)
    best: list[tuple[float, str]] = []
    for part in parquet_parts(signatures):
        ids, rows = _stored(part)
        alike = (rows == signature).mean(axis=1)
        nearest = np.lexsort((ids, -alike))[:most]
        best = sorted([*best, *((-float(alike[row]), str(ids[row])) for row in nearest if alike[row])])[:most]
    found = _described(documents, [key for _, key in best])
    return [Match(similarity=-negative, id=key, **found[key]) for negative, key in best if key in found]


def index(signatures: Path, settings: DedupSettings, *, seed: int) -> Any:
    """Return a `datasketch.MinHashLSH` over the stored signatures, with ids as keys; some 30 microseconds each."""
    from datasketch import MinHash, MinHashLSH

    bands, rows = effective_banding(settings)
    lsh = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
    shared = permutations(bands * rows, derive(seed, "dedup"))
    for part in parquet_parts(signatures):
        for key, values in zip(*_stored(part), strict=True):
            if key not in lsh:
                minhash = MinHash(
                    hashvalues=values, permutations=shared, scheme="affine32", seed=derive(seed, "dedup") % 2**32
                )
                lsh.insert(str(key), minhash)
    return lsh


def _signature(text: str, settings: DedupSettings, seed: int) -> NDArray[np.uint32]:
    bands, rows = effective_banding(settings)
    sketches = sketch(pa.array([text]), settings.shingle_words, permutations(bands * rows, derive(seed, "dedup")))
    if not sketches.words[0]:
        raise UserError("The text has no words, so nothing is like it.")
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
