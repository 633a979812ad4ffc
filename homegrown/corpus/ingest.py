"""The ingest stage: sources of text to Parquet shards of documents, and a quarantine of unreadable input."""

import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.config.corpus import AnySource, HubSource, IngestSettings
from homegrown.corpus import hub
from homegrown.corpus.assembly import Kept, shards, shifts, table_of, within_limit, write_rows, write_shard
from homegrown.corpus.documents import QUARANTINE, REPAIRS, SKIPPED, SOURCES
from homegrown.corpus.ingest_plan import plan
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.sources import Found, find
from homegrown.corpus.units import Summary, Unit, read_unit, rows_of
from homegrown.util.elsewhere import opened
from homegrown.util.errors import UserError
from homegrown.util.files import replacing, write_parquet
from homegrown.util.parallel import in_flight, map_ordered
from homegrown.util.progress import Metric, Outcome, Progress, silent


def ingest(
    out: Path,
    settings: IngestSettings,
    *,
    executor: Executor,
    progress: Progress = silent,
    check: Callable[[AnySource], dict[str, str]] = lambda source: {},
) -> Outcome:
    """Read all sources in order; write `documents` and the tables about them under `out`.

    `documents` has the columns of `homegrown.corpus.documents.SCHEMA`, in shards of about `shard_mb` of text;
    `quarantine` has unreadable input, `skipped` what was not read, `repairs` the documents with repaired lines, and
    `sources` the counts of each source (`homegrown.corpus.documents` has their columns). Units of work stay in
    `out/units` until all are read, so a killed run resumes at the first missing one. `limit_mb` of a source keeps its
    first documents up to that much text. `check` is called for each source when its files are found; it returns the
    SHA-256 of files by locator, which those that are read must have. Of a hub dataset, the commit that
    its revision names at the start is read, and recorded. Raises UserError for a missing path or column, for
    a file that changes, and for a corpus without documents.
    """
    spent = out / ".spent"
    shutil.rmtree(spent, ignore_errors=True)
    kept: list[Kept] = []
    quarantined: list[tuple[Unit, int]] = []
    metrics: dict[str, Metric] = {}
    counted: list[dict[str, str | int]] = []
    skipped: list[dict[str, str | int]] = []
    for number, named in enumerate(settings.sources):
        source = _pinned(named, out / "units")
        found = find(source)
        known = check(source)
        pieces = [replace(piece, sha256=known.get(piece.locator, "")) for piece in found.files]
        units = plan(source, pieces, out / "units" / source.name, settings)

        def report(fraction: float, *, number: int = number, name: str = source.name) -> None:
            progress(number + fraction, len(settings.sources), source=name)

        summaries = _read(executor, units, report)
        units = units[: len(summaries)]
        shifted = shifts(units, summaries)
        documents = within_limit(units, shifted)
        kept += documents
        quarantined += zip(units, shifted, strict=True)
        metrics[f"{source.name}_documents"] = sum(len(file.sizes) for file in documents)
        if isinstance(source, HubSource) and source.revision:
            metrics[f"{source.name}_revision"] = source.revision
        skipped += _skipped(source.name, found, summaries)
        counted.append(
            _counts(source.name, found, summaries) | {"documents": sum(len(file.sizes) for file in documents)}
        )
    rows = sum(len(file.sizes) for file in kept)
    if not rows:
        raise UserError(_nothing(quarantined))
    for _ in map_ordered(executor, write_shard, shards(out / "documents", kept, int(settings.shard_mb * MEGABYTE))):
        pass
    for table, schema in (("quarantine", QUARANTINE), ("repairs", REPAIRS)):
        executor.submit(write_rows, table_of(out / table, quarantined), schema).result()
    write_parquet(out / "skipped.parquet", pa.Table.from_pylist(skipped, SKIPPED))
    write_parquet(out / "sources.parquet", pa.Table.from_pylist(counted, SOURCES))
    metrics |= {"text_bytes": sum(int(file.sizes.sum()) for file in kept)}
    names = {"quarantined": "quarantined", "left_out": "left_out_by_weight", "skipped": "skipped_files"}
    names |= {"invalid_bytes": "invalid_bytes", "repaired": "repaired", "warnings": "library_warnings"}
    metrics |= {metric: sum(int(counts[name]) for counts in counted) for name, metric in names.items()}
    (out / "units").rename(spent)
    shutil.rmtree(spent)
    unread = sum(int(counts["quarantined"]) + int(counts["left_out"]) for counts in counted)
    return Outcome(rows + unread, rows, metrics=metrics)


def _pinned(source: AnySource, units: Path) -> AnySource:
    """Return the source; of a hub dataset with its commit, that of the first attempt if this one resumes."""
    if not isinstance(source, HubSource):
        return source
    kept = units / f"{source.name}.commit"
    if kept.is_file():
        return source.model_copy(update={"revision": kept.read_text()})
    source = hub.pinned(source)
    if source.revision:
        units.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            temporary.write_text(source.revision)
    return source


def _counts(name: str, found: Found, summaries: list[Summary]) -> dict[str, str | int]:
    """Return the counts of a source for a row of SOURCES, without its documents."""
    return {
        "source": name,
        "files": len(found.files),
        "skipped": sum(int(row["count"]) for row in _skipped(name, found, summaries)),
        "quarantined": sum(summary.quarantined for summary in summaries),
        "left_out": sum(summary.left_out for summary in summaries),
        "invalid_bytes": sum(summary.invalid_bytes for summary in summaries),
        "repaired": sum(summary.repaired for summary in summaries),
        "warnings": sum(summary.warnings for summary in summaries),
    }


def _skipped(name: str, found: Found, summaries: list[Summary]) -> list[dict[str, str | int]]:
    """Return the rows of SKIPPED of a source, in the order of reading."""
    inside = [tally.skipped for summary in summaries for tally in summary.tallies]
    rows = [(path, reason, 1) for path, reason in found.skipped.items()]
    rows += [(path, *item) for paths in inside for path, reasons in paths.items() for item in reasons.items()]
    return [dict(zip(SKIPPED.names, (name, *row), strict=True)) for row in rows]


def _read(executor: Executor, units: list[Unit], report: Callable[[float], None]) -> list[Summary]:
    """Read units in order up to the limit of their source; wait for those in flight, which still write."""
    summaries: list[Summary] = []
    waiting: deque[Future[Summary]] = deque()
    columns = _Columns()
    remaining = iter(units)
    unseen = [any(not piece.start for piece in unit.pieces) for unit in units]  # units where a file starts
    text = 0
    try:
        while len(summaries) < len(units):
            while len(waiting) < in_flight(executor) and (unit := next(remaining, None)):
                waiting.append(executor.submit(read_unit, unit))
            summaries.append(waiting.popleft().result())
            columns.check(summaries[-1], is_early=any(unseen[len(summaries) :]))
            text += summaries[-1].text_bytes
            limit = units[0].limit_bytes
            report(max(len(summaries) / len(units), min(1.0, text / limit) if limit else 0))
            if limit and text >= limit:
                break
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)
    return summaries


class _Columns:
    """Checks that some row or table of a source has the text column."""

    def __init__(self) -> None:
        self._texts = 0
        self._mismatch = ""

    def check(self, summary: Summary, *, is_early: bool) -> None:
        """Raise UserError if no file gives a document in its first unit; `is_early` while some are unread.

        Rows without it beside others are faults, in any order of the files.
        """
        self._texts += summary.documents + sum(tally.texts for tally in summary.tallies)
        mismatches = [tally.mismatch for tally in summary.tallies if tally.mismatch]
        self._mismatch = self._mismatch or next(iter(mismatches), "")
        if self._mismatch and not self._texts and not is_early:
            raise UserError(self._mismatch)


def _nothing(quarantined: list[tuple[Unit, int]]) -> str:
    """Return the message for a corpus without documents, with the first reason in quarantine."""
    for unit, _ in quarantined:
        for path in rows_of(unit, "quarantine")[:1]:
            row = pq.ParquetFile(opened(path)).read().slice(0, 1).to_pylist()[0]
            return f"No document could be read; {row['path']} is in quarantine: {row['reason']}."
    return "The sources have no document within their limit_mb; raise it or add text."
