"""The shard stage: documents shuffled and split into train, validation and test shards of even size.

Three steps, each in shards of work: sign the held-out documents, spread all documents over buckets (map), sort buckets
and write shards (reduce). The process that runs the stage has counts per shard and per bucket, nothing per document.
"""

import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.corpus import ShardSettings
from homegrown.corpus.contamination import Runs, contaminated, runs_of_files
from homegrown.corpus.documents import SCHEMA
from homegrown.corpus.exchange import facts_of, read_buckets, write_buckets
from homegrown.corpus.heldout import HeldOut, Signer, index_files, load, most_similar, save
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.segmenter import MISSING
from homegrown.corpus.split_choice import SPLITS, Bounds, bounds, hashes
from homegrown.util.elsewhere import parts_of
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet, writing
from homegrown.util.parallel import map_ordered
from homegrown.util.progress import Metric, Outcome, Progress, silent
from homegrown.util.seeds import derive

REASONS = ("near_validation", "near_test", "contaminated")
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
_RANKED = SCHEMA.append(pa.field("key", pa.uint64()))
_OWNERS = pa.schema([("id", pa.string()), ("split", pa.int8())])  # of held-out documents
_log = logging.getLogger(__name__)
_BATCH = 4096  # rows whose texts are compared at once
_FINE = 16  # buckets per shard to write: the neighbors that it reads and does not use are a sixteenth
_BUCKETS = 16_384  # of a split


@dataclass(frozen=True)
class _Signing:
    """Sign the held-out documents of one input shard."""

    documents: Path
    signed: Path
    ends: Bounds
    settings: ShardSettings
    seed: int


@dataclass(frozen=True)
class _Indexing:
    """Join the signed documents of all shards to one index."""

    signed: tuple[Path, ...]
    owners: Path
    index: tuple[Path, ...]
    settings: ShardSettings
    seed: int


@dataclass(frozen=True)
class _Spreading:
    """Spread one input shard over buckets, without the documents that leak."""

    documents: Path
    spread: Path
    dropped: Path
    ends: Bounds
    buckets: tuple[int, ...]  # of each split
    owners: Path
    index: tuple[Path, ...]
    runs: tuple[Path, Path]
    settings: ShardSettings
    seed: int


@dataclass(frozen=True)
class _Writing:
    """Write shards `first` up to `last` of the `parts` of a split from its buckets `start` up to `stop`."""

    spread: tuple[Path, ...]
    folder: Path
    start: int
    stop: int
    before: int  # bytes of the split's text before these buckets
    text_bytes: int  # of the split
    parts: int
    first: int
    last: int


def shard(
    out: Path,
    filtered: Path,
    settings: ShardSettings,
    *,
    seed: int,
    executor: Executor,
    progress: Progress = silent,
) -> Outcome:
    """Shuffle and split `filtered/documents` into `train`, `validation` and `test` under `out`.

    A seeded hash of the id chooses the split and the place in it, so a document's split does not depend on the rest of
    the corpus. Only if a held-out split would be empty, the documents with the nearest hashes are held out. Buckets are
    ranges of the hash; neither they nor the shards of the input change a byte. A worker has one input shard, or one
    shard to write, in memory, and the index of held-out documents, about 800 bytes each.

    Deduplication leaves pairs below its threshold, and filters may have changed a text since. So a training document
    with an estimated Jaccard similarity of `max_similarity` or more to a held-out one goes to `dropped`. So does one
    that shares a run of 13 words with a file of `decontaminate`. Both happen here because training documents are known
    only here, in their final form, and so a new evaluation does not repeat deduplication. Validation and test are not
    compared with each other. (Brown et al. 2020 remove 200 characters around a run; here the document is dropped.)
    Raises UserError if a split would be empty.
    """
    inputs = parts_of(filtered / "documents")
    seed = derive(seed, "shard")
    runs = runs_of_files(settings.decontaminate)
    ends = bounds(inputs, settings, seed)
    scratch = out / "exchange"
    signing = [_Signing(path, scratch / "signed" / f"{path.stem}.arrow", ends, settings, seed) for path in inputs]
    sizes = [0] * len(SPLITS)
    for done, own in enumerate(map_ordered(executor, _sign, signing), 1):
        sizes = [size + more for size, more in zip(sizes, own, strict=True)]
        progress(done, 3 * len(inputs))

    owners, index = scratch / "owners.arrow", index_files(scratch / "index")
    signed = tuple(job.signed for job in signing)
    executor.submit(_join, _Indexing(signed, owners, index, settings, seed)).result()
    shard_bytes = settings.shard_mb * MEGABYTE
    buckets = tuple(min(_BUCKETS, _FINE * max(1, round(size / shard_bytes))) for size in sizes)
    run_files = _save_runs(runs, scratch)
    spreading = [
        _Spreading(
            path,
            scratch / "spread" / f"{path.stem}.arrow",
            out / "dropped" / path.name,
            ends,
            buckets,
            owners,
            index,
            run_files,
            settings,
            seed,
        )
        for path in inputs
    ]
    counts, bytes_of = np.zeros(len(SPLITS), np.int64), np.zeros(sum(buckets), np.int64)
    reasons = dict.fromkeys(REASONS, 0)
    for done, facts in enumerate(map_ordered(executor, _spread, spreading), len(inputs) + 1):
        counts += facts["documents"]
        bytes_of += facts["bytes"]
        for reason in REASONS:
            reasons[reason] += facts["dropped"][reason]
        progress(done, 3 * len(inputs))
    _check(counts, settings)

    spread = tuple(job.spread for job in spreading)
    writing = list(_plan(out, spread, buckets, bytes_of, shard_bytes))
    for done, _ in enumerate(map_ordered(executor, _write, writing), 1):
        progress(len(inputs) * (2 + done / len(writing)), 3 * len(inputs))
    shutil.rmtree(scratch)

    metrics: dict[str, Metric] = {}
    for name, count, own_bytes in zip(SPLITS, counts, _of_splits(buckets, bytes_of), strict=True):
        metrics |= {f"{name}_documents": int(count), f"{name}_bytes": int(own_bytes.sum())}
    metrics |= {f"dropped_{reason}": reasons[reason] for reason in REASONS}
    metrics |= {"evaluation_runs": len(runs.hashes), "evaluation_texts_too_short": runs.short}
    if runs.unsegmented:
        metrics["unsegmented"] = runs.unsegmented
        _log.warning("%d %s", runs.unsegmented, MISSING)
    kept = int(counts.sum())
    return Outcome(kept + sum(reasons.values()), kept, metrics=metrics)


# --- map --------------------------------------------------------------------------------------------------------------


def _sign(job: _Signing) -> list[int]:
    """Write ids, splits and signatures of the held-out documents; return the bytes of text of each split."""
    if not job.signed.exists():
        signer = Signer(job.settings.max_similarity, job.seed % 2**32)
        signature = pa.binary(4 * signer.size)
        schema = _OWNERS.append(pa.field("signature", signature))
        sizes = [0] * len(SPLITS)
        batches = []
        for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH, columns=["id", "text"]):
            splits, _ = _splits_and_keys(batch["id"], job.ends, job.seed)
            text_bytes = pc.binary_length(batch["text"]).to_numpy()
            sizes = [size + int(text_bytes[splits == split].sum()) for split, size in enumerate(sizes)]
            own = batch.filter(pa.array(splits > 0))
            packed = pa.py_buffer(signer.sign(own["text"]).astype("<u4", copy=False))
            signatures = pa.FixedSizeBinaryArray.from_buffers(signature, len(own), [None, packed])
            batches.append(pa.record_batch([own["id"], pa.array(splits[splits > 0]), signatures], schema=schema))
        table = pa.Table.from_batches(batches, schema)
        write_buckets(job.signed, table, np.zeros(len(table), np.int64), {"bytes": sizes})
    found: list[int] = facts_of(job.signed)["bytes"]
    return found


def _splits_and_keys(ids: pa.Array, ends: Bounds, seed: int) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
    hashed = hashes(ids, seed)
    splits = np.array([ends.split(chosen_by) for chosen_by, _ in hashed], np.int8)
    return splits, np.array([key for _, key in hashed], np.uint64)


def _join(job: _Indexing) -> None:
    """Write the index of all held-out documents, and id and split of each."""
    if job.owners.exists():
        return
    signer = Signer(job.settings.max_similarity, job.seed % 2**32)
    owners = []
    for batch in read_buckets(job.signed, 0, 1):
        signer.add(np.frombuffer(batch["signature"].buffers()[1], "<u4").reshape(len(batch), signer.size))
        owners.append(batch.select(_OWNERS.names))
    save(signer.finish(), job.index)
    table = pa.Table.from_batches(owners, _OWNERS)
    write_buckets(job.owners, table, np.zeros(len(table), np.int64), {})


def _spread(job: _Spreading) -> dict[str, Any]:
    """Write the documents of a shard by bucket, and those that leak; return documents, bytes and reasons."""
    if job.spread.exists():
        return facts_of(job.spread)
    held_out = _HeldOut(load(job.index), pa.Table.from_batches(read_buckets([job.owners], 0, 1), _OWNERS))
    runs = Runs(np.load(job.runs[0]), np.load(job.runs[1]), short=0, unsegmented=0)
    starts = np.cumsum([0, *job.buckets])
    counts, bytes_of = np.zeros(len(SPLITS), np.int64), np.zeros(sum(job.buckets), np.int64)
    batches, numbers, dropped = [], [np.empty(0, np.int64)], [DROPPED.empty_table()]
    for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH):
        splits, keys = _splits_and_keys(batch["id"], job.ends, job.seed)
        rows = np.flatnonzero(splits == 0)
        leaks = _leaks(batch.take(pa.array(rows)), held_out, runs, job.settings)
        dropped.append(leaks.drop_columns("row"))
        kept = np.ones(len(batch), bool)
        kept[rows[leaks["row"].to_numpy()]] = False
        splits, keys, batch = splits[kept], keys[kept], batch.filter(pa.array(kept))
        many = np.array(job.buckets, np.uint64)[splits]
        own = starts[splits] + ((keys >> np.uint64(32)) * many >> np.uint64(32)).astype(np.int64)
        counts += np.bincount(splits, minlength=len(SPLITS))
        np.add.at(bytes_of, own, pc.binary_length(batch["text"]).to_numpy())
        batches.append(pa.record_batch([*batch.select(SCHEMA.names).columns, pa.array(keys)], schema=_RANKED))
        numbers.append(own)
    table = pa.concat_tables(dropped)
    write_parquet(job.dropped, table)
    reasons = {row["values"]: row["counts"] for row in table["reason"].value_counts().to_pylist()}
    facts = {
        "documents": counts.tolist(),
        "bytes": bytes_of.tolist(),
        "dropped": {reason: reasons.get(reason, 0) for reason in REASONS},
    }
    write_buckets(job.spread, pa.Table.from_batches(batches, _RANKED), np.concatenate(numbers), facts)
    return facts


def _save_runs(runs: Runs, folder: Path) -> tuple[Path, Path]:
    paths = folder / "runs.npy", folder / "files.npy"
    for path, values in zip(paths, (runs.hashes, runs.files), strict=True):
        with writing(path) as file:
            np.save(file, values)
    return paths


@dataclass(frozen=True)
class _HeldOut:
    """Index of the held-out documents, and their ids and splits."""

    index: HeldOut
    owners: pa.Table


def _leaks(batch: pa.RecordBatch, held_out: _HeldOut, runs: Runs, settings: ShardSettings) -> pa.Table:
    """Return the rows of DROPPED for some training documents, each with its `row` in the batch."""
    nearest, similarities = most_similar(batch["text"], held_out.index, settings.max_similarity)
    found: dict[int, dict[str, object]] = {}
    for row in np.flatnonzero(nearest >= 0).tolist():
        owner = int(nearest[row])
        reason = f"near_{SPLITS[held_out.owners['split'][owner].as_py()]}"
        similar_to = held_out.owners["id"][owner].as_py()
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
    if not total:
        raise UserError("The corpus has 0 documents after dedup and filter; `homegrown report corpus` shows why.")
    name = SPLITS[int(np.argmin(counts))]
    share = "" if name == "train" else f", or raise shard.{name}_share ({getattr(settings, f'{name}_share')})"
    raise UserError(f"The corpus is too small: {total} documents leave none for {name}; add text{share}.")


# --- reduce -----------------------------------------------------------------------------------------------------------


def _of_splits(buckets: tuple[int, ...], values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the values of the buckets of each split."""
    return np.split(values, np.cumsum(buckets)[:-1])


def _plan(
    out: Path, spread: tuple[Path, ...], buckets: tuple[int, ...], bytes_of: NDArray[np.int64], shard_bytes: float
) -> Iterator[_Writing]:
    """Yield the jobs that write the shards of every split, of even size, as close to `shard_bytes` as possible.

    A document is in the shard of its first byte in the shuffled order. So a job needs the buckets that contain the
    first byte of one of its shards, up to the one with the last.
    """
    start = 0
    for name, own in zip(SPLITS, _of_splits(buckets, bytes_of), strict=True):
        ends = np.cumsum(own)
        total = int(ends[-1])
        parts = max(1, round(total / shard_bytes))
        # The first and the last shard with a byte of each bucket.
        lows = [_part(int(end - size), total, parts) for end, size in zip(ends, own, strict=True)]
        highs = [_part(int(end), total, parts) for end in ends]
        together = max(1, 2 * parts // len(own))
        for first in range(0, parts, together):
            last = min(parts, first + together)
            low, high = int(np.searchsorted(highs, first)), int(np.searchsorted(lows, last))
            before = int(ends[low] - own[low])
            yield _Writing(spread, out / name, start + low, start + high, before, total, parts, first, last)
        start += len(own)


def _part(place: int, total: int, parts: int) -> int:
    """Return the shard of a document whose first byte is at `place`; the last one may be empty."""
    return min(parts - 1, place * parts // max(1, total))


def _write(job: _Writing) -> None:
    """Sort the documents of some buckets and write the missing shards among them."""
    paths = {number: job.folder / f"part-{number:05d}.parquet" for number in range(job.first, job.last)}
    missing = [number for number, path in paths.items() if not path.exists()]
    if not missing:
        return
    table = pa.Table.from_batches(read_buckets(job.spread, job.start, job.stop), _RANKED).combine_chunks()
    order = np.argsort(table["key"].to_numpy(), kind="stable")
    sizes = pc.binary_length(table["text"]).to_numpy().astype(np.int64)[order]
    places = (job.before + np.cumsum(sizes) - sizes).tolist()
    numbers = np.array([_part(place, job.text_bytes, job.parts) for place in places], np.int64)
    for number in missing:
        own = order[slice(*np.searchsorted(numbers, [number, number + 1]))]
        if len(own):  # none starts here if the previous document is longer than a shard
            write_parquet(paths[number], table.take(pa.array(own)).drop_columns("key"))
