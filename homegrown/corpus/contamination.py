"""Decontamination: documents that share a run of words with an evaluation file (Brown et al. 2020, appendix C)."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, CODE_POINTS, WORD, characters
from homegrown.corpus.compiled import buffers
from homegrown.corpus.minhash import hash_runs
from homegrown.corpus.segmenter import unsegmented, word_ends
from homegrown.corpus.streams import Bounded, TooMuch, buffered, check_end, most_unpacked, opened, unpacked
from homegrown.util.errors import UserError

RUN_WORDS = 13  # Brown et al. 2020
_ROWS = 64  # of a table, in memory at once


class Runs(NamedTuple):
    """All distinct runs of 13 words of some files: hashes (r,) uint64, ascending, and the file of each, (r,)."""

    hashes: NDArray[np.uint64]
    files: NDArray[np.int64]
    short: int  # texts with fewer words
    unsegmented: int  # texts with words of a script without spaces that were not found: no segmenter


def check_files(paths: list[str]) -> list[Path]:
    """Return the files of `shard.decontaminate`; raise UserError for a missing one."""
    for path in paths:
        if not Path(path).expanduser().is_file():
            raise UserError(f"shard.decontaminate: file {path} not found.")
    return [Path(path).expanduser() for path in paths]


def runs_of_files(paths: list[str]) -> Runs:
    """Return the runs of 13 words of all texts in the files; raise UserError for a file that cannot be read."""
    hashes, files, short, unknown = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0, 0
    for number, path in enumerate(check_files(paths)):
        texts = pa.array([normalize("NFC", text) for text in _texts(path)], pa.string())
        starts, runs = hash_runs(texts, RUN_WORDS)
        unknown += int(unsegmented(texts).sum())
        short += int((np.diff(starts) == 0).sum())
        hashes.append(runs)
        files.append(np.full(len(runs), number))
    distinct, first = np.unique(np.concatenate(hashes), return_index=True)
    return Runs(distinct, np.concatenate(files)[first], short, unknown)


def contaminated(texts: pa.StringArray, runs: Runs) -> Iterator[tuple[int, int, str]]:
    """Yield index, file number and the first shared run of words for each text that shares one.

    Runs are equal if their 64-bit hashes are. Words are those of `homegrown.corpus.splitting`, in lower case and
    without punctuation, as in Brown et al. 2020.
    """
    if not len(runs.hashes):  # no files: spare a pass over all text
        return
    starts, hashes = hash_runs(texts, RUN_WORDS)
    places = np.minimum(np.searchsorted(runs.hashes, hashes), len(runs.hashes) - 1)
    hits = np.flatnonzero(runs.hashes[places] == hashes)
    owners = np.searchsorted(starts, hits, side="right") - 1
    for owner, first in zip(*np.unique(owners, return_index=True), strict=True):
        hit = hits[first]
        word = int(hit - starts[owner])
        yield int(owner), int(runs.files[places[hit]]), _words(texts[int(owner)].as_py(), word, RUN_WORDS)


def _words(text: str, first: int, count: int) -> str:
    """Return the part of a text with `count` words from word `first` (from 0)."""
    kinds = characters().kinds
    data, offsets = buffers(pa.array([text], pa.string()))
    ends = set(word_ends(data, offsets).tolist())
    start = seen = size = 0
    inside = joined = False  # joined: in a word of a script without spaces
    for place, character in enumerate(text):
        kind = kinds[ord(character)] if ord(character) < CODE_POINTS else 0
        if inside and (not kind & WORD or (kind & ALONE and not joined)):
            inside = False
            if seen == first + count:
                return text[start:place]
        if kind & WORD and not inside:
            seen += 1
            inside = True
            if seen == first + 1:
                start = place
        size += len(character.encode())
        joined = bool(kind & ALONE) and size not in ends
        if inside and kind & ALONE and not joined:
            inside = False
            if seen == first + count:
                return text[start : place + 1]
    return text[start:]


def _texts(path: Path) -> Iterator[str]:
    """Yield every string in a file: all values of JSON, CSV and Parquet, or any other file as one text."""
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            for batch in pq.ParquetFile(path).iter_batches(_ROWS):
                yield from _strings(batch.to_pylist())
            return
        with opened(str(path)) as stream:
            compression = ".gz" if name.endswith(".gz") else ""
            most, reason = most_unpacked(path.stat().st_size), "it unpacks to hundreds of times its size"
            unpacked_stream = buffered(Bounded(unpacked(stream, compression), most, reason))
            data = unpacked_stream.read()
            check_end(unpacked_stream)
        name = name.removesuffix(".gz")
        if name.endswith(".jsonl"):
            for line in data.splitlines():
                yield from _strings(orjson.loads(line) if line.strip() else None)
        elif name.endswith(".json"):
            yield from _strings(orjson.loads(data))
        elif name.endswith((".csv", ".tsv")):
            delimiter = "\t" if name.endswith(".tsv") else ","
            yield from _strings(list(csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter=delimiter)))
        else:
            yield data.decode("utf-8-sig")
    except (ValueError, csv.Error, OSError, TooMuch) as error:  # Arrow's, JSON's and Unicode's are ValueErrors
        raise UserError(f"shard.decontaminate: {path} cannot be read: {str(error).splitlines()[0]}.") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
