"""Made-up documents, and the stages' folders as bytes to compare."""

import hashlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.config.corpus import FilesSource, IngestSettings
from homegrown.corpus.documents import SCHEMA, document_id
from homegrown.util.files import write_parquet

WORDS = [
    f"{first}{last}" for first in ("ka", "lo", "mi", "ne", "pu", "ra", "si") for last in ("dan", "ber", "tol", "x")
]


def sentence(random: Random, words: int) -> list[str]:
    return [random.choice(WORDS) + str(random.randrange(50)) for _ in range(words)]


def edited(random: Random, words: list[str], share: float) -> list[str]:
    """Return the words with about `share` of them replaced."""
    return [random.choice(WORDS) if random.random() < share else word for word in words]


def corpus(seed: int, count: int = 120) -> list[str]:
    """Return documents of 60 to 120 words, a third of them edited copies of others."""
    random = Random(seed)
    documents = [sentence(random, random.randrange(60, 120)) for _ in range(count * 2 // 3)]
    documents += [
        edited(random, random.choice(documents), random.choice([0, 0.01, 0.03, 0.08])) for _ in range(count // 3)
    ]
    random.shuffle(documents)
    return [" ".join(words) for words in documents]


def write_documents(folder: Path, texts: list[str], rows: int = 50, urls: list[str | None] | None = None) -> Path:
    """Write texts as shards of documents under `folder/documents`, with the ids that ingest gives; return `folder`."""
    urls = urls or [None] * len(texts)
    for number, first in enumerate(range(0, max(1, len(texts)), rows)):
        part = texts[first : first + rows]
        columns: list[list[Any]] = [
            [document_id("made-up", "x.txt", text) for text in part],
            part,
            ["made-up"] * len(part),
            ["x.txt"] * len(part),
            list(range(first + 1, first + 1 + len(part))),
            urls[first : first + rows],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        write_parquet(folder / "documents" / f"part-{number:05d}.parquet", pa.table(arrays, schema=SCHEMA))
    return folder


@cache
def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    return frozenset(tuple(words[i : i + 5]) for i in range(len(words) - 4))


def jaccard(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' sets of 5-grams."""
    left, right = _shingles(one), _shingles(other)
    both = len(left & right)
    return both / (len(left) + len(right) - both)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return all rows of a table's folder in order."""
    return [row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder that is not a leftover of `homegrown.util.files`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def files(path: Path | str, **settings: Any) -> IngestSettings:
    """Return settings with one source of files."""
    source = {"kind": "files", "name": "raw", "path": str(path)}
    source |= {key: settings.pop(key) for key in FilesSource.model_fields if key in settings}
    return IngestSettings.model_validate({"sources": [source], **settings})
