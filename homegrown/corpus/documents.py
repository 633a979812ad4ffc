"""The tables of documents and of quarantine: their columns, and the id of a document."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from homegrown.util.elsewhere import opened

_READERS = 16

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # 32 hexadecimal digits
        ("text", pa.string()),  # UTF-8, NFC
        ("source", pa.string()),  # the source's name
        ("path", pa.string()),  # relative to the source's root
        ("position", pa.int64()),  # row, line or document number in that file, from 1
        ("url", pa.string()),  # as in the source; null: none
    ]
)

QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),  # 0: the file itself
        ("reason", pa.string()),
    ]
)

SKIPPED = pa.schema(
    [
        ("source", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),
        ("count", pa.int64()),  # 1 for a file; the records of a web archive
    ]
)

REPAIRS = pa.schema(
    [
        ("source", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),
        ("lines", pa.int64()),  # repaired in the document
        ("before", pa.string()),  # part of the first one
        ("after", pa.string()),
    ]
)

SOURCES = pa.schema(
    [
        ("source", pa.string()),
        ("files", pa.int64()),  # read; members of archives and pieces of packages count once
        ("skipped", pa.int64()),  # files, members and records of archives that were not read
        ("documents", pa.int64()),
        ("quarantined", pa.int64()),  # rows of quarantine
        ("left_out", pa.int64()),  # documents left out by weight
        ("invalid_bytes", pa.int64()),  # places with invalid bytes, each of which became U+FFFD
        ("repaired", pa.int64()),  # documents with mojibake that was repaired
        ("warnings", pa.int64()),  # messages of libraries, which are not printed
    ]
)


def document_id(source: str, path: str, text: str) -> str:
    """Return 32 hexadecimal digits (XXH3, 128 bits) from source, locator and text, independent of the position.

    So repeated rows of a file share an id in any order of the file; deduplication keeps one of them.
    """
    return xxhash.xxh3_128_hexdigest("\0".join((source, path, text)).encode())


def row_count(part: Path) -> int:
    """Return the number of rows of a Parquet file, from its footer; it may be at a store."""
    return int(pq.read_metadata(opened(part)).num_rows)


def row_counts(parts: Sequence[Path]) -> list[int]:
    """Return the number of rows of each Parquet file; several footers are read at once."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(row_count, parts))
