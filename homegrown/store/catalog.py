"""DuckDB views over every artifact and every Parquet shard."""

import csv
import json
import re
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from homegrown.reporting.blocks import Table
from homegrown.store.artifacts import RATINGS, Store
from homegrown.store.manifest import MANIFEST, Artifact
from homegrown.store.runs import recorded
from homegrown.util.elsewhere import address_of, filesystem, is_elsewhere
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts

_CORPUS = ("shard", "filter", "dedup", "ingest")
_SPLITS = ("train", "validation", "test")
_REASONS = ("reason", "rule", "kind")  # columns of `dropped` with the reason, by stage
_NUMBER = re.compile("U?(TINY|SMALL|BIG|HUGE)?INT|INTEGER|UINTEGER|FLOAT|DOUBLE|DECIMAL")
_SIMILARITY = """CREATE MACRO similarity(one, other) AS list_avg(list_transform(
    list_zip(regexp_extract_all(hex(one), '.{8}'), regexp_extract_all(hex(other), '.{8}')),
    lambda pair: (pair[1] = pair[2])::INTEGER))"""
_ORDER = ("evaluate", "quantize", "pretrain", "pack", "tokenizer", "shard", "filter", "dedup", "ingest")


def connect(store: Store, memory_gb: float = 2, statement: str = "") -> duckdb.DuckDBPyConnection:
    """Return a connection with a view of each table of each artifact.

    Of a table whose files are at a remote store, there is a view only if the statement names it, or `tables`: a view
    opens a file.

    A table is a folder of Parquet shards or a Parquet file of an artifact: `dedup.dropped` of the latest version,
    `"dedup@3".dropped` of version 3. A name without a schema is searched from the last stage backward. `artifacts`,
    `files` and `runs` describe the store. `dropped` (the rows of every stage, with `stage` and `reason`) and `shards`
    (all splits, with `split`) belong to the latest corpus. `ratings` has the answers to `homegrown rate`.
    `similarity(one, other)` estimates the Jaccard similarity of two signatures.

    Raises:
        UserError: a table at a remote store cannot be read.
    """
    connection = duckdb.connect()
    connection.execute("SET memory_limit = ?", [f"{memory_gb}GB"])
    connection.execute("SET temp_directory = ?", [str(store.root / ".state" / "duckdb")])
    every = store.all()
    _describe(connection, store, every)
    latest = {artifact.manifest.stage: artifact for artifact in every}
    schemas = [(artifact.name, artifact) for artifact in every] + list(latest.items())
    found = {artifact.path: tables(artifact.path, statement) for artifact in every}
    for schema, artifact in schemas:
        _add_views(connection, schema, found[artifact.path])
    last = next((latest[stage] for stage in _CORPUS if stage in latest), None)
    if last is not None:
        chain = [last, *store.lineage(last)]
        _add_corpus(connection, [(artifact, found[artifact.path]) for artifact in chain])
    ratings = store.root / RATINGS
    if parquet_parts(ratings):
        connection.execute("CREATE VIEW ratings AS " + _select([str(ratings / "*.parquet")]))
    connection.execute(_SIMILARITY)
    path = ",".join(["main", *(stage for stage in _ORDER if stage in latest)])
    connection.execute("SET search_path = ?", [path])
    return connection


def table_of(connection: duckdb.DuckDBPyConnection, sql: str, most: int | None) -> Table | None:
    """Return the result of SQL as a table of at most `most` rows; None for a statement without a result.

    Raises:
        UserError: DuckDB's message about wrong SQL.
    """
    try:
        result = connection.sql(sql)
        if result is None:
            return None
        columns, types = result.columns, result.types
        found = (result if most is None else result.limit(most + 1)).fetchall()
    except duckdb.Error as error:
        raise UserError(str(error)) from error
    cells = [["NULL" if value is None else str(value) for value in row] for row in found[:most]]
    align = "".join("r" if _NUMBER.match(str(kind)) else "l" for kind in types)
    notes = [] if found else ["No rows."]
    if most is not None and len(found) > most:
        notes = [f"Only the first {most:,} rows; a file or a pipe gets all."]
    return Table(columns, cells, align=align, notes=notes)


def write_csv(connection: duckdb.DuckDBPyConnection, sql: str, file: TextIO) -> None:
    """Write the result of SQL to `file` as CSV with a header, in batches.

    Raises:
        UserError: DuckDB's message about wrong SQL.
    """
    writer = csv.writer(file)
    try:
        result = connection.execute(sql)
        writer.writerow(column[0] for column in result.description or ())
        while batch := result.fetchmany(10_000):
            writer.writerows(batch)
    except duckdb.Error as error:
        raise UserError(str(error)) from error


def tables(folder: Path, statement: str = "") -> dict[str, list[str]]:
    """Return the tables of an artifact's folder: the paths or globs of the Parquet files by table name.

    Of an artifact at a remote store, those that the statement names, with the addresses of the files.
    """
    if is_elsewhere(folder):
        return _tables_elsewhere(folder, set(re.findall(r"\w+", statement.lower())))
    found = {file.stem: [str(file)] for file in parquet_parts(folder)}
    found |= {
        sub.name: [str(sub / "*.parquet")] for sub in sorted(folder.iterdir()) if sub.is_dir() and parquet_parts(sub)
    }
    return found


def _tables_elsewhere(folder: Path, words: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    names = json.loads((folder / MANIFEST).read_bytes())["files"]
    for name in sorted(name for name in names if name.endswith(".parquet")):
        table = name.partition("/")[0].removesuffix(".parquet")
        wanted = {table, "tables", *(["shards"] if table in _SPLITS else [])}
        if wanted & words:
            found.setdefault(table, []).append(address_of(folder / name))
    return {table: sorted(files, key=lambda file: not urlsplit(file).scheme) for table, files in found.items()}


def _add_views(connection: duckdb.DuckDBPyConnection, schema: str, found: dict[str, list[str]]) -> None:
    connection.execute(f"CREATE SCHEMA {_quoted(schema)}")
    for table, files in found.items():
        scheme = urlsplit(files[0]).scheme
        try:
            if scheme not in ("", "file") and not connection.filesystem_is_registered(scheme):
                connection.register_filesystem(filesystem(files[0])[0])
            connection.execute(f"CREATE VIEW {_quoted(schema)}.{_quoted(table)} AS {_select(files)}")
        except Exception as error:  # whatever the file system raises, in DuckDB's message with its traceback
            reason = [line.strip() for line in str(error).splitlines() if line.strip(" ^")][-1]
            raise UserError(
                f"Table {schema}.{table} is at {files[0].rpartition('/')[0]}, which cannot be read ({reason}); check "
                "the address and its credentials."
            ) from error


def _add_corpus(connection: duckdb.DuckDBPyConnection, chain: list[tuple[Artifact, dict[str, list[str]]]]) -> None:
    """Add the views `dropped` and `shards` of a chain of artifacts with their tables."""
    dropped, shards = [], []
    for artifact, found in reversed(chain):
        schema = _quoted(artifact.name)
        if "dropped" in found:
            columns = connection.table(f"{schema}.dropped").columns
            reason = next((name for name in _REASONS if name in columns), None)
            why = f"{reason} AS reason, * EXCLUDE ({reason})" if reason else "*"
            dropped.append(f"SELECT '{artifact.manifest.stage}' AS stage, {why} FROM {schema}.dropped")
        if artifact.manifest.stage == "shard":
            shards += [f"SELECT '{split}' AS split, * FROM {schema}.{split}" for split in _SPLITS if split in found]
    for view, selects in (("dropped", dropped), ("shards", shards)):
        if selects:
            connection.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(selects)}")


def _describe(connection: duckdb.DuckDBPyConnection, store: Store, every: list[Artifact]) -> None:
    artifacts = [
        {
            "stage": artifact.manifest.stage,
            "version": artifact.manifest.version,
            "key": artifact.manifest.key,
            "started": artifact.manifest.started,
            "seconds": artifact.manifest.seconds,
            "rows_in": artifact.manifest.rows_in,
            "rows_out": artifact.manifest.rows_out,
            "unit": artifact.manifest.unit,
            "bytes": artifact.manifest.bytes,
            "settings": json.dumps(artifact.manifest.settings),
            "metrics": json.dumps(artifact.manifest.metrics),
            "inputs": json.dumps(artifact.manifest.inputs),
            "path": str(artifact.path),
        }
        for artifact in every
    ]
    files = [
        {"stage": artifact.manifest.stage, "version": artifact.manifest.version, "file": name, **facts.model_dump()}
        for artifact in every
        for name, facts in artifact.manifest.files.items()
    ]
    runs = [
        {
            "run": name,
            "recipe": run.recipe["name"],
            "started": run.started,
            "finished": run.finished,
            "stage": stage,
            "key": key,
        }
        for name, run in recorded(store).items()
        for stage, key in run.keys.items()
    ]
    for name, rows, schema in (("artifacts", artifacts, _ARTIFACTS), ("files", files, _FILES), ("runs", runs, _RUNS)):
        connection.register(f"{name}_rows", pa.Table.from_pylist(rows, schema=schema))
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_rows")
        connection.unregister(f"{name}_rows")


def _select(files: list[str]) -> str:
    literals = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"SELECT * FROM read_parquet([{literals}])"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_TIME = pa.timestamp("us", tz="UTC")
_ARTIFACTS = pa.schema(
    [
        *(("stage", pa.string()), ("version", pa.int64()), ("key", pa.string()), ("started", _TIME)),
        *(("seconds", pa.float64()), ("rows_in", pa.int64()), ("rows_out", pa.int64()), ("unit", pa.string())),
        *(("bytes", pa.int64()), ("settings", pa.string()), ("metrics", pa.string()), ("inputs", pa.string())),
        ("path", pa.string()),
    ]
)
_FILES = pa.schema(
    [
        ("stage", pa.string()),
        ("version", pa.int64()),
        ("file", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
_RUNS = pa.schema(
    [
        *(("run", pa.string()), ("recipe", pa.string()), ("started", _TIME), ("finished", _TIME)),
        *(("stage", pa.string()), ("key", pa.string())),
    ]
)
