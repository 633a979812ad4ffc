"""The shard stage: documents shuffled and split into train, validation and test shards of even size, out of core."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from homegrown.corpus.documents import SCHEMA
from homegrown.corpus.records import MEGABYTE
from homegrown.errors import UserError
from homegrown.files import parquet_parts, write_parquet
from homegrown.outcome import Outcome
from homegrown.progress import Metric, Progress, silent
from homegrown.recipe import ShardSettings
from homegrown.seeds import derive

SPLITS = ("train", "validation", "test")
_RANKED = SCHEMA.append(pa.field("rank", pa.int64()))
_BATCH = 4096  # rows whose texts are in memory at once
_BUCKETS = 500  # files open at once
_SHARE = 8  # a bucket may be this part of the memory: it is held twice while it is sorted, beside Parquet's buffers


@dataclass(frozen=True)
class _Part:
    """A shard to write: documents `first` to `last` of the shuffled order."""

    path: Path
    first: int
    last: int
    text_bytes: int


def shard(
    out: Path,
    filtered: Path,
    settings: ShardSettings,
    *,
    seed: int,
    memory_gb: float,
    progress: Progress = silent,
) -> Outcome:
    """Shuffle and split `filtered/documents` into `train`, `validation` and `test` under `out`.

    A seeded hash of the id (XXH3, 128 bits) decides: its upper half chooses the split, its lower half the place in it,
    so a document stays in its split whatever else is in the corpus. Texts go through files of at most an eighth of
    `memory_gb`, each sorted on its own; held in memory besides: some 40 bytes a document. Raises UserError when a split
    would be empty.
    """
    inputs = parquet_parts(filtered / "documents")
    steps = 3 * len(inputs)
    splits, keys, sizes = _index(inputs, settings, derive(seed, "shard"), lambda done: progress(done, steps))
    counts = np.bincount(splits, minlength=len(SPLITS))
    _check(counts, settings)
    order = np.lexsort((keys, splits))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    parts = list(_parts(out, counts, sizes[order], int(settings.shard_mb * MEGABYTE)))
    buckets = _buckets(parts, int(memory_gb * 1e9 / _SHARE))
    spill = out / "spill"
    shutil.rmtree(spill, ignore_errors=True)
    spill.mkdir(parents=True)
    _spread(inputs, ranks, buckets, spill, lambda done: progress(len(inputs) + done, steps))
    for number, bucket in enumerate(buckets):
        _write_bucket(_spilled(spill, number), bucket)
        progress(len(inputs) * (2 + (number + 1) / len(buckets)), steps)
    shutil.rmtree(spill)
    metrics: dict[str, Metric] = {}
    for split, name in enumerate(SPLITS):
        metrics[f"{name}_documents"] = int(counts[split])
        metrics[f"{name}_bytes"] = int(sizes[splits == split].sum())
    return Outcome(len(order), len(order), metrics=metrics)


def _index(
    inputs: list[Path], settings: ShardSettings, seed: int, report: Callable[[int], None]
) -> tuple[NDArray[np.int8], NDArray[np.uint64], NDArray[np.int64]]:
    """Return split, shuffling key and bytes of text of every document, in the order of the shards."""
    test = int(settings.test_share * 2**64)
    validation = test + int(settings.validation_share * 2**64)
    splits, keys, sizes = [np.empty(0, np.int8)], [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for done, path in enumerate(inputs, 1):
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=["id", "text"]):
            hashes = [xxhash.xxh3_128_intdigest(key, seed) for key in batch["id"].cast(pa.binary()).to_pylist()]
            chosen = [2 if (upper := value >> 64) < test else 1 if upper < validation else 0 for value in hashes]
            splits.append(np.array(chosen, np.int8))
            keys.append(np.array([value & (2**64 - 1) for value in hashes], np.uint64))
            sizes.append(pc.binary_length(batch["text"]).to_numpy().astype(np.int64))
        report(done)
    return np.concatenate(splits), np.concatenate(keys), np.concatenate(sizes)


def _check(counts: NDArray[np.int64], settings: ShardSettings) -> None:
    if counts.all():
        return
    total = int(counts.sum())
    name = SPLITS[int(np.argmin(counts))]
    share = "" if name == "train" else f", or raise shard.{name}_share ({getattr(settings, f'{name}_share')})"
    raise UserError(f"The corpus is too small: of {total} documents none is left for {name}; add text{share}.")


def _parts(out: Path, counts: NDArray[np.int64], sizes: NDArray[np.int64], shard_bytes: int) -> Iterator[_Part]:
    """Yield the shards of every split, of even size, as near to `shard_bytes` as that allows; `sizes` are in order."""
    first = 0
    for name, count in zip(SPLITS, counts, strict=True):
        ends = np.cumsum(sizes[first : first + count])
        parts = max(1, round(int(ends[-1]) / shard_bytes))
        numbers = (ends - sizes[first : first + count]) * parts // ends[-1]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], count], strict=True)):
            text_bytes = int(ends[stop - 1] - ends[start] + sizes[first + start])
            yield _Part(out / name / f"part-{number:05d}.parquet", first + int(start), first + int(stop), text_bytes)
        first += int(count)


def _buckets(parts: list[_Part], most: int) -> list[list[_Part]]:
    """Put neighbouring shards together up to `most` bytes of text, or more where there would be too many buckets."""
    most = max(most, sum(part.text_bytes for part in parts) // (_BUCKETS // 2))
    buckets: list[list[_Part]] = []
    held = most + 1
    for part in parts:
        if held + part.text_bytes > most:
            buckets.append([])
            held = 0
        buckets[-1].append(part)
        held += part.text_bytes
    return buckets


def _spilled(folder: Path, number: int) -> Path:
    return folder / f"{number:03d}.arrow"


def _spread(
    inputs: list[Path],
    ranks: NDArray[np.int64],
    buckets: list[list[_Part]],
    folder: Path,
    report: Callable[[int], None],
) -> None:
    """Write every document, with its rank in the shuffled order, to the file of its bucket."""
    firsts = np.array([bucket[0].first for bucket in buckets])
    place = 0
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_stream(_spilled(folder, number), _RANKED)) for number in range(len(buckets))
        ]
        for done, path in enumerate(inputs, 1):
            for batch in pq.ParquetFile(path).iter_batches(_BATCH):
                own = ranks[place : place + len(batch)]
                ranked = pa.record_batch([*batch.select(SCHEMA.names).columns, pa.array(own)], schema=_RANKED)
                targets = np.searchsorted(firsts, own, side="right") - 1
                for target in np.unique(targets):
                    writers[target].write_batch(ranked.filter(pa.array(targets == target)))
                place += len(batch)
            report(done)


def _write_bucket(spilled: Path, parts: list[_Part]) -> None:
    """Sort one bucket and write its shards, those that are not there already."""
    if not all(part.path.exists() for part in parts):
        with pa.ipc.open_stream(spilled) as reader:
            table = reader.read_all()
        table = table.take(pc.sort_indices(table, [("rank", "ascending")])).drop_columns("rank")
        for part in parts:
            if not part.path.exists():
                write_parquet(part.path, table.slice(part.first - parts[0].first, part.last - part.first))
    spilled.unlink()
