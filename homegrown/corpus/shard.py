"""The shard stage: documents shuffled out of core and split into train, validation and test shards of even size."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.recipe import ShardSettings
from homegrown.corpus.contamination import Runs, contaminated, runs_of_files
from homegrown.corpus.documents import SCHEMA
from homegrown.corpus.heldout import HeldOut, Signer, most_similar
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.segmenter import MISSING
from homegrown.corpus.split_choice import SPLITS, bounds, hashes
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts, write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent
from homegrown.util.seeds import derive

REASONS = ("near_validation", "near_test", "contaminated")
_DROPPED = 3  # instead of a split
DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),  # near_validation, near_test or contaminated
        ("similar_to", pa.string()),  # the held-out document
        ("similarity", pa.float64()),  # estimated Jaccard of the two
        ("file", pa.string()),  # the evaluation's
        ("words", pa.string()),  # the shared run of words
    ]
)
_RANKED = SCHEMA.append(pa.field("rank", pa.int64()))
_log = logging.getLogger(__name__)
_BATCH = 4096  # rows whose texts are in memory at once
_BUCKETS = 500  # files open at once
_SHARE = 8  # maximum share of a bucket in memory: sorting needs it twice, beside Parquet's buffers


@dataclass(frozen=True)
class _Part:
    """A shard to write: documents `first` to `last` in the shuffled order."""

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

    A seeded hash of the id chooses the split and the place in it, so a document's split does not depend on the rest of
    the corpus. Only if a held-out split would be empty, the documents with the nearest hashes are held out. Texts pass
    through files of at most an eighth of `memory_gb`, each sorted on its own. Memory besides: about 40 bytes per
    document, 800 per held-out one.

    Deduplication leaves pairs below its threshold, and filters may have changed a text since. So a training document
    with an estimated Jaccard similarity of `max_similarity` or more to a held-out one goes to `dropped`. So does one
    that shares a run of 13 words with a file of `decontaminate`. Both happen here because training documents are known
    only here, in their final form, and so a new evaluation does not repeat deduplication. Validation and test are not
    compared with each other. (Brown et al. 2020 remove 200 characters around a run; here the document is dropped.)
    Raises UserError if a split would be empty.
    """
    inputs = parquet_parts(filtered / "documents")
    steps = 4 * len(inputs)
    runs = runs_of_files(settings.decontaminate)
    seed = derive(seed, "shard")
    splits, keys, sizes, held_out = _index(inputs, settings, seed, lambda done: progress(done, steps))
    reasons = _drop(inputs, out, splits, held_out, runs, settings, lambda done: progress(len(inputs) + done, steps))
    counts = np.bincount(splits, minlength=len(SPLITS))[: len(SPLITS)]
    _check(counts, settings)
    order = np.lexsort((keys, splits))[: counts.sum()]
    ranks = np.full(len(splits), -1, np.int64)
    ranks[order] = np.arange(len(order))
    parts = list(_parts(out, counts, sizes[order], int(settings.shard_mb * MEGABYTE)))
    buckets = _buckets(parts, int(memory_gb * 1e9 / _SHARE))
    spill = out / "spill"
    shutil.rmtree(spill, ignore_errors=True)
    spill.mkdir(parents=True)
    _spread(inputs, ranks, buckets, spill, lambda done: progress(2 * len(inputs) + done, steps))
    for number, bucket in enumerate(buckets):
        _write_bucket(_spilled(spill, number), bucket)
        progress(len(inputs) * (3 + (number + 1) / len(buckets)), steps)
    shutil.rmtree(spill)
    metrics: dict[str, Metric] = {}
    for split, name in enumerate(SPLITS):
        metrics[f"{name}_documents"] = int(counts[split])
        metrics[f"{name}_bytes"] = int(sizes[splits == split].sum())
    metrics |= {f"dropped_{reason}": reasons[reason] for reason in REASONS}
    metrics |= {"evaluation_runs": len(runs.hashes), "evaluation_texts_too_short": runs.short}
    if runs.unsegmented:
        metrics["unsegmented"] = runs.unsegmented
        _log.warning("%d %s", runs.unsegmented, MISSING)
    return Outcome(len(splits), len(order), metrics=metrics)


@dataclass(frozen=True)
class _HeldOut:
    """Index of the held-out documents, and their ids and splits."""

    index: HeldOut
    ids: pa.Array
    splits: NDArray[np.int8]


def _index(
    inputs: list[Path], settings: ShardSettings, seed: int, report: Callable[[int], None]
) -> tuple[NDArray[np.int8], NDArray[np.uint64], NDArray[np.int64], _HeldOut]:
    """Return split, shuffling key and text bytes of every document in order, and the held-out documents."""
    ends = bounds(inputs, settings, seed)
    splits, keys, sizes = [np.empty(0, np.int8)], [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    signer = Signer(settings.max_similarity, seed % 2**32)
    held_ids, held_splits = [pa.array([], pa.string())], [np.empty(0, np.int8)]
    for done, path in enumerate(inputs, 1):
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=["id", "text"]):
            hashed = hashes(batch["id"], seed)
            splits.append(np.array([ends.split(chosen_by) for chosen_by, _ in hashed], np.int8))
            keys.append(np.array([key for _, key in hashed], np.uint64))
            sizes.append(pc.binary_length(batch["text"]).to_numpy().astype(np.int64))
            own = batch.filter(pa.array(splits[-1] > 0))
            signer.add(own["text"])
            held_ids.append(own["id"])
            held_splits.append(splits[-1][splits[-1] > 0])
        report(done)
    held_out = _HeldOut(signer.finish(), pa.concat_arrays(held_ids), np.concatenate(held_splits))
    return np.concatenate(splits), np.concatenate(keys), np.concatenate(sizes), held_out


def _drop(
    inputs: list[Path],
    out: Path,
    splits: NDArray[np.int8],
    held_out: _HeldOut,
    runs: Runs,
    settings: ShardSettings,
    report: Callable[[int], None],
) -> dict[str, int]:
    """Write the dropped training documents and remove them from `splits`; return the number by reason."""
    reasons = dict.fromkeys(REASONS, 0)
    place = 0
    for done, path in enumerate(inputs, 1):
        tables = [DROPPED.empty_table()]
        for batch in pq.ParquetFile(path).iter_batches(_BATCH):
            rows = np.flatnonzero(splits[place : place + len(batch)] == 0)
            found = _leaks(batch.take(pa.array(rows)), held_out, runs, settings)
            tables.append(found.drop_columns("row"))
            splits[place + rows[found["row"].to_numpy()]] = _DROPPED
            place += len(batch)
        table = pa.concat_tables(tables)
        write_parquet(out / "dropped" / path.name, table)
        for row in table["reason"].value_counts().to_pylist():
            reasons[row["values"]] += row["counts"]
        report(done)
    return reasons


def _leaks(batch: pa.RecordBatch, held_out: _HeldOut, runs: Runs, settings: ShardSettings) -> pa.Table:
    """Return the rows of DROPPED for some training documents, each with its `row` in the batch."""
    nearest, similarities = most_similar(batch["text"], held_out.index, settings.max_similarity)
    found: dict[int, dict[str, object]] = {}
    for row in np.flatnonzero(nearest >= 0).tolist():
        owner = int(nearest[row])
        reason = f"near_{SPLITS[held_out.splits[owner]]}"
        similar_to = held_out.ids[owner].as_py()
        found[row] = {"reason": reason, "similar_to": similar_to, "similarity": float(similarities[row])}
    for row, file, words in contaminated(batch["text"], runs):
        found.setdefault(row, {"reason": "contaminated", "file": settings.decontaminate[file], "words": words})
    rows = sorted(found)
    documents = batch.select(DROPPED.names[:4]).take(pa.array(rows, pa.int64())).to_pylist()
    entries = [{**document, **found[row], "row": row} for document, row in zip(documents, rows, strict=True)]
    return pa.Table.from_pylist(entries, DROPPED.append(pa.field("row", pa.int64())))


def _check(counts: NDArray[np.int64], settings: ShardSettings) -> None:
    if counts.all():
        return
    total = int(counts.sum())
    name = SPLITS[int(np.argmin(counts))]
    share = "" if name == "train" else f", or raise shard.{name}_share ({getattr(settings, f'{name}_share')})"
    raise UserError(f"The corpus is too small: {total} documents leave none for {name}; add text{share}.")


def _parts(out: Path, counts: NDArray[np.int64], sizes: NDArray[np.int64], shard_bytes: int) -> Iterator[_Part]:
    """Yield the shards of every split, of even size, as close to `shard_bytes` as possible; `sizes` are in order."""
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
    """Group neighboring shards up to `most` bytes of text, or more to limit the number of buckets."""
    most = max(most, sum(part.text_bytes for part in parts) // (_BUCKETS // 2))
    buckets: list[list[_Part]] = []
    taken = most + 1
    for part in parts:
        if taken + part.text_bytes > most:
            buckets.append([])
            taken = 0
        buckets[-1].append(part)
        taken += part.text_bytes
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
    """Write every document with its rank in the shuffled order to the file of its bucket."""
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
                for target in np.unique(targets[own >= 0]):
                    writers[target].write_batch(ranked.filter(pa.array((targets == target) & (own >= 0))))
                place += len(batch)
            report(done)


def _write_bucket(spilled: Path, parts: list[_Part]) -> None:
    """Sort one bucket and write its missing shards."""
    if not all(part.path.exists() for part in parts):
        with pa.ipc.open_stream(spilled) as reader:
            table = reader.read_all()
        table = table.take(pc.sort_indices(table, [("rank", "ascending")])).drop_columns("rank")
        for part in parts:
            if not part.path.exists():
                write_parquet(part.path, table.slice(part.first - parts[0].first, part.last - part.first))
    spilled.unlink()
