"""The filter stage: documents that pass every rule, and a table of the others with the rule and the measured value."""

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from homegrown.corpus.documents import SCHEMA, row_count
from homegrown.corpus.languages import check_languages, language_probabilities
from homegrown.corpus.rules import measure
from homegrown.files import parquet_parts, write_parquet
from homegrown.outcome import Outcome
from homegrown.parallel import map_ordered
from homegrown.progress import Progress, silent
from homegrown.recipe import FilterSettings

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("rule", pa.string()),  # the first one that the document fails, by the name of its setting
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("text_start", pa.string()),  # 200 characters
    ]
)
RULES = (
    "min_characters",
    "max_characters",
    "min_alphabetic_share",
    "max_duplicate_line_share",
    "max_top_bigram_share",
    "languages",
)
_BATCH = 4096  # rows whose texts are in memory at once


@dataclass(frozen=True)
class _Job:
    documents: Path
    kept: Path
    dropped: Path
    settings: FilterSettings


def filter_documents(
    out: Path, deduplicated: Path, settings: FilterSettings, *, executor: Executor, progress: Progress = silent
) -> Outcome:
    """Apply the rules to `deduplicated/documents`; write `documents` and `dropped` under `out`, shard by shard.

    The measures are in `homegrown.corpus.rules`; a value equal to its threshold passes. For `languages` the value is
    the probability of the likeliest language asked for, the threshold that of the likeliest of all. Raises UserError
    for an unknown language.
    """
    check_languages(settings.languages)
    parts = parquet_parts(deduplicated / "documents")
    jobs = [_Job(part, out / "documents" / part.name, out / "dropped" / part.name, settings) for part in parts]
    dropped = dict.fromkeys(RULES, 0)
    kept = 0
    for done, (rows, counts) in enumerate(map_ordered(executor, _filter_shard, jobs), 1):
        kept += rows
        for rule, count in counts.items():
            dropped[rule] += count
        progress(done, len(jobs), dropped=sum(dropped.values()))
    return Outcome(kept + sum(dropped.values()), kept, metrics={f"dropped_{rule}": dropped[rule] for rule in RULES})


def _filter_shard(job: _Job) -> tuple[int, dict[str, int]]:
    """Filter a shard, unless that is done; return the rows kept and how many each rule dropped."""
    if not job.kept.exists():  # written last
        kept, dropped = [SCHEMA.empty_table()], [DROPPED.empty_table()]
        for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH):
            passing, failing = _judge(batch, job.settings)
            kept.append(passing)
            dropped.append(failing)
        write_parquet(job.dropped, pa.concat_tables(dropped))
        write_parquet(job.kept, pa.concat_tables(kept))
    counted = pq.read_table(job.dropped, columns=["rule"])["rule"].value_counts().to_pylist()
    return row_count(job.kept), {row["values"]: row["counts"] for row in counted}


def _judge(batch: pa.RecordBatch, settings: FilterSettings) -> tuple[pa.Table, pa.Table]:
    """Return the documents that pass every rule, and the rows of DROPPED for the others."""
    measured = measure(batch["text"])
    rules: list[tuple[ArrayLike, ArrayLike, np.ufunc]] = [
        (measured["characters"], settings.min_characters, np.less),
        (measured["characters"], settings.max_characters, np.greater),
        (measured["alphabetic_share"], settings.min_alphabetic_share, np.less),
        (measured["duplicate_line_share"], settings.max_duplicate_line_share, np.greater),
        (measured["top_bigram_share"], settings.max_top_bigram_share, np.greater),
    ]
    if settings.languages:
        rules.append((*language_probabilities(batch["text"], settings.languages), np.less))
    fails = np.stack([compare(value, threshold) for value, threshold, compare in rules])
    rows = np.flatnonzero(fails.any(axis=0))
    first = fails.argmax(axis=0)[rows]  # by row, the first rule that it fails
    values = np.stack([np.broadcast_to(value, len(batch)) for value, _, _ in rules])[first, rows]
    thresholds = np.stack([np.broadcast_to(threshold, len(batch)) for _, threshold, _ in rules])[first, rows]
    dropped = batch.take(pa.array(rows))
    starts = pc.utf8_slice_codeunits(dropped["text"], 0, 200)
    names = pa.array([RULES[number] for number in first], pa.string())
    failing = [dropped["id"], names, pa.array(values, pa.float64()), pa.array(thresholds, pa.float64()), starts]
    return pa.table(batch.filter(pa.array(~fails.any(axis=0)))), pa.table(failing, schema=DROPPED)
