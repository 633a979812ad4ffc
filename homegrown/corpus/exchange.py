"""Rows that shards of work pass to each other: one Arrow file per writer, with at most one batch per bucket.

A shuffle has two steps. Each writer sorts its rows by bucket (map); a reader takes one bucket of every file (reduce).
Files are complete or missing, so a killed step repeats nothing that another has finished.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.util.elsewhere import opened
from homegrown.util.files import replacing
from homegrown.util.parallel import map_ordered

_BUCKETS = b"buckets"
_FACTS = b"facts"
_REQUESTS = 16  # at the same time, to a store


def write_buckets(path: Path, table: pa.Table, buckets: NDArray[np.integer[Any]], facts: dict[str, Any]) -> None:
    """Write rows with the bucket of each, in their order within a bucket, and facts for whoever plans the next step."""
    order = np.argsort(buckets, kind="stable")
    present, firsts = np.unique(buckets[order], return_index=True)
    notes = {_BUCKETS: present.astype("<u4").tobytes(), _FACTS: json.dumps(facts).encode()}
    rows = table.combine_chunks().take(pa.array(order)).replace_schema_metadata(notes)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with replacing(path, scratch=True) as temporary, pa.ipc.new_file(temporary, rows.schema, options=options) as writer:
        for first, last in pairwise([*firsts, len(order)]):
            writer.write_table(rows.slice(first, last - first), max_chunksize=last - first)


def facts_of(path: Path) -> dict[str, Any]:
    """Return the facts in a file of `write_buckets`."""
    with _opened(path) as file:
        facts: dict[str, Any] = json.loads(pa.ipc.open_file(file).schema.metadata[_FACTS])
    return facts


def read_buckets(paths: Iterable[Path], first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of buckets `first` up to `last`, file by file; of files at a store, only these are read."""
    paths = list(paths)
    if all(path.exists() for path in paths):
        for path in paths:
            yield from _batches(path, first, last)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for batches in map_ordered(pool, lambda path: list(_batches(path, first, last)), paths):
            yield from batches


def _batches(path: Path, first: int, last: int) -> Iterator[pa.RecordBatch]:
    with _opened(path) as file:
        reader = pa.ipc.open_file(file)
        present = np.frombuffer(reader.schema.metadata[_BUCKETS], "<u4")
        for number in range(*np.searchsorted(present, [first, last]).tolist()):
            yield reader.get_batch(number)


def _opened(path: Path) -> pa.NativeFile:
    found = opened(path)
    return pa.memory_map(str(found)) if isinstance(found, Path) else pa.PythonFile(found, mode="r")
