"""The account of a corpus from the artifacts of its stages: counts, distributions and examples for a report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.corpus.languages import identify
from homegrown.corpus.split_choice import SPLITS
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.util.elsewhere import opened
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts

STAGES = ("ingest", "dedup", "filter", "shard")
EXAMPLES = 20
SAMPLED = 2_000  # documents whose language is identified
_EXCERPT = 1_500  # characters
_CLUSTERS = 10
BINS_PER_DECADE = 4


@dataclass(frozen=True)
class Step:
    """Documents and UTF-8 bytes of text after a stage."""

    name: str
    artifact: str
    documents: int
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Example:
    """A dropped document: its id, the measured value, the threshold, the start of its text."""

    id: str
    value: float
    threshold: float
    text: str


@dataclass(frozen=True)
class RuleCount:
    """A rule: documents that it dropped first, all that fail it, and random examples of the dropped ones."""

    name: str
    threshold: float | None
    dropped: int
    failed: int
    examples: list[Example]


@dataclass(frozen=True)
class Cluster:
    """A cluster of duplicates: its size, the texts of the kept and of a dropped document, their similarity."""

    size: int
    kept: str
    dropped: str
    similarity: float


@dataclass(frozen=True)
class Reason:
    """A reason of quarantine with its numbers removed, or of skipped files; its count, and examples."""

    reason: str
    count: int
    examples: list[str]


@dataclass
class Account:
    """The content of the report; a part is empty if its stage was not run."""

    steps: list[Step] = field(default_factory=list)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    """By stage, the number of documents per bin; bin b starts at 10^(b/4) characters."""
    sources: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    """Source; documents and bytes after the first stage, and after the last."""
    languages: list[tuple[str, int]] = field(default_factory=list)
    sampled: int = 0
    by_language: list[tuple[str, int, int, str | None, int]] = field(default_factory=list)
    """Language; documents before and after the filter; the rule that dropped the most of them, and its number."""
    rules: list[RuleCount] = field(default_factory=list)
    judged: int = 0
    clusters: list[Cluster] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)
    quarantine: list[Reason] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """The rows of `homegrown.corpus.documents.SOURCES`."""
    skipped: list[Reason] = field(default_factory=list)
    repairs: list[tuple[str, int, list[tuple[str, str, str]]]] = field(default_factory=list)
    """Source; repaired documents, and of some the place and a line before and after."""


def latest_chain(store: Store) -> dict[str, Artifact]:
    """Return the newest artifact of the corpus stages and its inputs, by stage.

    Raises UserError if there is no such artifact.
    """
    every = [artifact for artifact in store.all() if artifact.manifest.stage in STAGES]
    if not every:
        raise UserError(f"No corpus in {store.root} yet; make one with `homegrown run tiny --until shard`.")
    newest = max(every, key=lambda artifact: (artifact.manifest.started, STAGES.index(artifact.manifest.stage)))
    chain = {artifact.manifest.stage: artifact for artifact in (newest, *store.lineage(newest))}
    return {stage: chain[stage] for stage in STAGES if stage in chain}


def account(chain: dict[str, Artifact], spill: Path, memory_gb: float = 2) -> Account:
    """Read a chain of artifacts; DuckDB spills to `spill`. The account depends on the artifacts alone."""
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = ?", [f"{memory_gb}GB"])
        connection.execute("SET temp_directory = ?", [str(spill)])
        found = Account()
        for stage, artifact in chain.items():
            if stage != "shard":
                _view(connection, f"{stage}_documents", artifact.path / "documents")
                found.lengths[stage] = _lengths(connection, stage)
            found.steps.append(_step(connection, stage, artifact))
        documents = [stage for stage in chain if stage != "shard"]
        if documents:
            found.sources = _sources(connection, documents[0], documents[-1])
            found.languages, found.sampled = _languages(connection, documents[-1])
        if "ingest" in chain:
            _view(connection, "quarantine", chain["ingest"].path / "quarantine")
            found.quarantine = _quarantine(connection)
            found.inputs = inputs(chain["ingest"].path)
            if found.inputs:
                _view(connection, "skipped", chain["ingest"].path, "skipped.parquet")
                _view(connection, "repairs", chain["ingest"].path / "repairs")
                found.skipped = _skipped(connection)
                found.repairs = _repairs(connection)
        if "dedup" in chain:
            _view(connection, "duplicates", chain["dedup"].path / "dropped")
            found.duplicates = dict(connection.execute("SELECT kind, count(*) FROM duplicates GROUP BY 1").fetchall())
            found.clusters = _clusters(connection) if "ingest" in chain else []
        if "filter" in chain:
            _view(connection, "dropped", chain["filter"].path / "dropped")
            _view(connection, "rules", chain["filter"].path / "rules")
            _view(connection, "by_language", chain["filter"].path / "by_language")
            found.rules = _rules(connection, "dedup" in chain)
            found.by_language = connection.execute("SELECT * FROM by_language").fetchall()
            found.judged = chain["filter"].manifest.rows_in
        return found


def inputs(artifact: Path) -> list[dict[str, Any]]:
    """Return the counts of each source of an ingest artifact; none for one of an earlier version."""
    found = opened(artifact / "sources.parquet")
    return [] if isinstance(found, Path) and not found.exists() else pq.ParquetFile(found).read().to_pylist()


def _skipped(connection: duckdb.DuckDBPyConnection) -> list[Reason]:
    rows = connection.execute(
        f"""SELECT reason, sum(count)::BIGINT AS n, list(path ORDER BY path)[:{EXAMPLES}]
        FROM skipped GROUP BY reason ORDER BY n DESC, reason"""
    ).fetchall()
    return [Reason(*row) for row in rows]


def _repairs(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int, list[tuple[str, str, str]]]]:
    rows = connection.execute(
        f"""SELECT source, count(*) AS n,
            list((path || ':' || position, before, after) ORDER BY hash(path, position), path, position)[:{EXAMPLES}]
        FROM repairs GROUP BY source ORDER BY n DESC, source"""
    ).fetchall()
    return [(source, count, [tuple(example) for example in examples]) for source, count, examples in rows]


def _view(connection: duckdb.DuckDBPyConnection, name: str, folder: Path, file: str = "") -> None:
    parts = [folder / file] if file else parquet_parts(folder)
    files = ", ".join("'" + str(part).replace("'", "''") + "'" for part in parts)
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])")


def _step(connection: duckdb.DuckDBPyConnection, stage: str, artifact: Artifact) -> Step:
    if stage == "shard":
        metrics = artifact.manifest.metrics
        size = sum(int(metrics[f"{split}_bytes"]) for split in SPLITS)
        note = ", ".join(f"{split} {metrics[f'{split}_documents']:,}" for split in SPLITS)
        return Step(stage, artifact.name, artifact.manifest.rows_out, size, note)
    count, size = _row(connection, f"SELECT count(*), coalesce(sum(strlen(text)), 0)::BIGINT FROM {stage}_documents")
    return Step(stage, artifact.name, count, size)


def _lengths(connection: duckdb.DuckDBPyConnection, stage: str) -> Counter[int]:
    bins = f"floor({BINS_PER_DECADE} * log10(greatest(length(text), 1)))::INTEGER"
    return Counter(dict(connection.execute(f"SELECT {bins}, count(*) FROM {stage}_documents GROUP BY 1").fetchall()))


def _sources(connection: duckdb.DuckDBPyConnection, first: str, last: str) -> list[tuple[str, int, int, int, int]]:
    counted = "SELECT source, count(*) AS n, sum(strlen(text))::BIGINT AS size FROM {}_documents GROUP BY source"
    return connection.execute(
        f"""SELECT source, a.n, a.size, coalesce(b.n, 0), coalesce(b.size, 0)
        FROM ({counted.format(first)}) a LEFT JOIN ({counted.format(last)}) b USING (source)
        ORDER BY a.size DESC, source"""
    ).fetchall()


def _languages(connection: duckdb.DuckDBPyConnection, stage: str) -> tuple[list[tuple[str, int]], int]:
    rows = connection.execute(f"SELECT text FROM {stage}_documents ORDER BY hash(id), id LIMIT {SAMPLED}").fetchall()
    codes = identify(pa.array([text for (text,) in rows], pa.string()), []).codes
    return sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0])), len(rows)


def _rules(connection: duckdb.DuckDBPyConnection, with_texts: bool) -> list[RuleCount]:
    connection.execute(
        f"""CREATE TEMP TABLE chosen AS SELECT * EXCLUDE (n) FROM (
            SELECT *, row_number() OVER (PARTITION BY rule ORDER BY hash(id), id) AS n FROM dropped
        ) WHERE n <= {EXAMPLES}"""
    )
    rows = connection.execute(
        "SELECT rule, id, value, threshold, text_start FROM chosen ORDER BY hash(id), id"
    ).fetchall()
    texts = _texts(connection, "dedup_documents", [row[1] for row in rows]) if with_texts else {}
    examples: dict[str, list[Example]] = {}
    for rule, identity, value, threshold, start in rows:
        examples.setdefault(rule, []).append(Example(identity, value, threshold, texts.get(identity, start)))
    counted = connection.execute("SELECT rule, threshold, dropped, failed FROM rules").fetchall()
    return [
        RuleCount(name, threshold, dropped, failed, examples.get(name, []))
        for name, threshold, dropped, failed in counted
    ]


def _clusters(connection: duckdb.DuckDBPyConnection) -> list[Cluster]:
    rows = connection.execute(
        f"""SELECT count(*) + 1 AS size, cluster, arg_min(id, (similarity, id)), min(similarity) FROM duplicates
        GROUP BY cluster ORDER BY size DESC, cluster LIMIT {_CLUSTERS}"""
    ).fetchall()
    texts = _texts(connection, "ingest_documents", [identity for row in rows for identity in row[1:3]])
    return [Cluster(size, texts.get(kept, ""), texts.get(gone, ""), alike) for size, kept, gone, alike in rows]


def _texts(connection: duckdb.DuckDBPyConnection, view: str, ids: Sequence[str]) -> dict[str, str]:
    """Return the starts of texts by id."""
    return dict(
        connection.execute(
            f"SELECT id, left(text, {_EXCERPT}) FROM {view} WHERE list_contains(?, id)", [list(ids)]
        ).fetchall()
    )


def _quarantine(connection: duckdb.DuckDBPyConnection) -> list[Reason]:
    rows = connection.execute(
        f"""SELECT regexp_replace(reason, '[0-9]+([.][0-9]+)?', '…', 'g') AS folded, count(*) AS n,
            list(path || ':' || position || ': ' || reason ORDER BY path, position)[:{EXAMPLES}]
        FROM quarantine GROUP BY folded ORDER BY n DESC, folded"""
    ).fetchall()
    return [Reason(*row) for row in rows]


def _row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    return connection.execute(sql).fetchall()[0]
