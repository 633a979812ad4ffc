"""Duplicates found from sketches: exact groups, near-duplicate clusters, and the kept document of each.

Documents have two numbers: `place` in the order of the shards, `node` in the order of ids. So no result depends on the
order of documents or on the shards. Each step is shards of work that pass files to the next one:

- index: node, exact group and rank of every document, sorted by DuckDB, which spills;
- bands: the band keys of a shard, by partition of the keys;
- link: the similar documents among those of a partition with equal keys;
- label: the component of each node (`homegrown.corpus.components`);
- route and cluster: the links of some components, and the documents dropped from them.

A link is in the spanning forest of its component if it joins two trees when all links come in the order of bands and
keys. A link of a part that is in this forest is in the forest of the part too, so no partition changes a link.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.corpus import DedupSettings
from homegrown.corpus.components import label
from homegrown.corpus.exchange import read_buckets, write_buckets
from homegrown.corpus.lsh import WINDOW, Documents, band_keys, forest, link, roots_of, similarities, stars
from homegrown.corpus.sketched import Sketched, fetch, signatures_of
from homegrown.util.files import replacing
from homegrown.util.parallel import map_ordered

Nodes = NDArray[np.uint32]

# The kept document of a group is the first in this order.
_ORDERS = {
    "longest": "length DESC, node",
    "first": "place",
    "best_quality": "quality DESC, length DESC, node",
}
PARTITIONS = 8
"""Of band keys, for most corpora: a pair is verified once in each, so more are more work."""

SMALL, LARGE = 50_000, 2_000_000
"""Documents per partition: fewer need fewer partitions, more need more."""

CHUNK = 20_000
"""Documents whose sketches are in memory at once."""

_LIMIT = 0.88  # of the memory: what DuckDB has exceeds its limit by a tenth
_DOCUMENT = pa.schema([("place", pa.uint32()), ("node", pa.uint32()), ("id", pa.string())])
_EXACT = pa.schema([("node", pa.uint32()), ("keeper", pa.uint32())])
_BAND = pa.schema([("key", pa.uint64()), ("node", pa.uint32())])
_LINK = pa.schema(
    [
        ("band", pa.uint8()),
        ("key", pa.uint64()),
        ("left", pa.uint32()),
        ("right", pa.uint32()),
        ("similarity", pa.float64()),
    ]
)
_DROP = pa.schema(
    [("node", pa.uint32()), ("original", pa.uint32()), ("similarity", pa.float64()), ("kept", pa.uint32())]
)


@dataclass(frozen=True)
class Shards:
    """All shards: their sketches as tables and by row, the place of the first row of each, permutations."""

    tables: tuple[Path, ...]
    files: tuple[Sketched, ...]
    firsts: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Index:
    """Files of all documents. By node: place, rank in the order of keeping. By place: node, whether to compare it.

    `exact` has node and keeper (the kept node of the exact group) of the others of a group; `documents` has place, node
    and id.
    """

    places: Path
    ranks: Path
    nodes: Path
    compared: Path
    exact: Path
    documents: Path


class Links(NamedTuple):
    """Pairs of similar nodes (k, 2), a spanning forest of the clusters, and their Jaccard similarities."""

    pairs: Nodes
    similarities: NDArray[np.float64]


@dataclass(frozen=True)
class _Indexing:
    shards: Shards
    index: Index
    spill: Path
    keep: str
    memory_gb: float


@dataclass(frozen=True)
class _Banding:
    files: Sketched
    first: int
    size: int
    index: Index
    bands: int
    partitions: int
    out: Path


@dataclass(frozen=True)
class _Linking:
    banded: tuple[Path, ...]
    partition: int
    bands: int
    shards: Shards
    index: Index
    threshold: float
    out: Path


@dataclass(frozen=True)
class _Routing:
    links: Path
    labels: Path
    groups: int
    out: Path


@dataclass(frozen=True)
class _Clustering:
    routed: tuple[Path, ...]
    group: int
    shards: Shards
    index: Index
    linkage: str
    threshold: float
    out: Path


@contextmanager
def spilling(folder: Path, memory_gb: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to an empty database in `folder`, cleared of a killed run's files; remove it afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    connection = duckdb.connect(str(folder / "spill.duckdb"))
    try:
        connection.execute("SET enable_progress_bar = false")  # the stage's own shows it
        connection.execute(f"SET memory_limit = '{int(memory_gb * _LIMIT * 1000)}MB'")
        connection.execute(f"SET temp_directory = '{str(folder / 'temporary').replace(chr(39), chr(39) * 2)}'")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(folder)


def partitions(documents: int) -> int:
    """Return the number of partitions of the band keys."""
    return max(1, min(PARTITIONS, documents // SMALL), documents // LARGE)


def find_duplicates(
    folder: Path,
    shards: Shards,
    documents: int,
    settings: DedupSettings,
    bands: int,
    memory_gb: float,
    executor: Executor,
    advance: Callable[[], None],
) -> tuple[Index, tuple[Path, ...]]:
    """Return the index of all documents and the files of the near-duplicates to drop (see `read_drops`).

    `folder` is for the files between the steps; `advance` is called after each shard of the bands and each partition.
    """
    names = ("places.u32", "ranks.u32", "nodes.u32", "compared.bool", "exact.parquet", "documents.parquet")
    index = Index(*(folder / name for name in names))
    executor.submit(_write_index, _Indexing(shards, index, folder / "database", settings.keep, memory_gb)).result()
    count = partitions(documents)
    banding = [
        _Banding(files, first, shards.size, index, bands, count, folder / "bands" / f"{number:05d}.arrow")
        for number, (files, first) in enumerate(zip(shards.files, shards.firsts, strict=True))
    ]
    for _ in map_ordered(executor, _write_bands, banding):
        advance()
    banded = tuple(job.out for job in banding)
    linking = [
        _Linking(banded, part, bands, shards, index, settings.threshold, folder / "links" / f"{part:05d}.arrow")
        for part in range(count)
    ]
    for _ in map_ordered(executor, _write_links, linking):
        advance()
    links = tuple(job.out for job in linking)
    labels = folder / "labels.u32"
    label(links, documents, labels, folder / "passed", executor)
    routing = [_Routing(path, labels, count, folder / "routed" / path.name) for path in links]
    for _ in map_ordered(executor, _route, routing):
        pass
    routed = tuple(job.out for job in routing)
    clustering = [
        _Clustering(
            *(routed, group, shards, index, settings.linkage, settings.threshold),
            folder / "drops" / f"{group:05d}.arrow",
        )
        for group in range(count)
    ]
    for _ in map_ordered(executor, _cluster, clustering):
        advance()
    return index, tuple(job.out for job in clustering)


def read_drops(files: tuple[Path, ...]) -> pa.RecordBatchReader:
    """Return node, original, similarity and kept node of each near-duplicate to drop."""
    return pa.RecordBatchReader.from_batches(_DROP, read_buckets(files, 0, 1))


# --- index ------------------------------------------------------------------------------------------------------------


def _write_index(job: _Indexing) -> None:
    """Sort all documents by id, by digest, and in the order of keeping; each sort has no more columns than it needs."""
    index = job.index
    if index.documents.exists():
        return
    with ExitStack() as made:
        connection = made.enter_context(spilling(job.spill, job.memory_gb))
        # Renamed in the opposite order, the documents last.
        documents, exact, compared_, nodes_, ranks_, places_ = (
            made.enter_context(replacing(path, scratch=True))
            for path in (index.documents, index.exact, index.compared, index.nodes, index.ranks, index.places)
        )
        connection.execute("CREATE TABLE ids (place UINTEGER, id VARCHAR)")
        for table, first in zip(job.shards.tables, job.shards.firsts, strict=True):
            connection.execute(
                "INSERT INTO ids SELECT ? + file_row_number, id FROM read_parquet(?, file_row_number = true)",
                [first, str(table)],
            )
        count = int(connection.sql("SELECT count(*) FROM ids").fetchall()[0][0])
        nodes, places = _blank(nodes_, count, np.uint32), _blank(places_, count, np.uint32)
        with pq.ParquetWriter(documents, _DOCUMENT, use_dictionary=False) as writer:
            for first, batch in _sorted(connection, "SELECT place, id FROM ids ORDER BY id, place"):
                own = np.arange(first, first + len(batch), dtype=np.uint32)
                places[own] = batch.column(0).to_numpy()
                nodes[places[own]] = own
                writer.write_table(pa.table([places[own], own, batch.column(1).cast(pa.string())], schema=_DOCUMENT))
        connection.execute("DROP TABLE ids")
        compared = _blank(compared_, count, np.bool_)
        _insert_facts(connection, job, nodes, compared)
        ranks = _blank(ranks_, count, np.uint32)
        order = _ORDERS[job.keep]
        for first, batch in _sorted(connection, f"SELECT node FROM facts ORDER BY {order}"):
            ranks[batch.column(0).to_numpy()] = np.arange(first, first + len(batch), dtype=np.uint32)
        before = np.zeros(3, np.uint64)  # digest and keeper of the last row
        with pq.ParquetWriter(exact, _EXACT) as writer:
            for first, batch in _sorted(connection, f"SELECT high, low, node FROM facts ORDER BY high, low, {order}"):
                high, low, own = (column.to_numpy() for column in batch.columns)
                keepers = _keepers(high, low, own, before if first else None)
                others = own != keepers
                compared[places[own[others]]] = False
                writer.write_table(pa.table([own[others], keepers[others]], schema=_EXACT))
                before = np.array([high[-1], low[-1], keepers[-1]], np.uint64)


def _insert_facts(
    connection: duckdb.DuckDBPyConnection, job: _Indexing, nodes: Nodes, compared: NDArray[np.bool_]
) -> None:
    """Fill the table of what documents are sorted by, and whether those of each place have words."""
    connection.execute(
        "CREATE TABLE facts (place UINTEGER, node UINTEGER, high UBIGINT, low UBIGINT, length INTEGER, quality DOUBLE)"
    )
    names = ["digest_high", "digest_low", "length", "words", *["quality"] * (job.keep == "best_quality")]
    for path, first in zip(job.shards.tables, job.shards.firsts, strict=True):
        table = pq.ParquetFile(path).read(names)
        own = np.arange(first, first + len(table))
        compared[own] = table["words"].to_numpy() > 0
        columns = [own.astype(np.uint32), nodes[own], *(table[name] for name in names[:3])]
        columns.append(table["quality"] if job.keep == "best_quality" else pa.nulls(len(table), pa.float64()))
        connection.register("shard", pa.table(columns, names=["place", "node", "high", "low", "length", "quality"]))
        connection.execute("INSERT INTO facts SELECT * FROM shard")
        connection.unregister("shard")


def _sorted(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of a query in batches that are not empty, with the number of each batch's first row."""
    first = 0
    for batch in connection.sql(query).to_arrow_reader(1_000_000):
        if len(batch):
            yield first, batch
            first += len(batch)


def _keepers(
    high: NDArray[np.uint64], low: NDArray[np.uint64], nodes: Nodes, before: NDArray[np.uint64] | None
) -> Nodes:
    """Return the first node of each row's group of equal digests; `before` is digest and keeper of the previous row."""
    starts = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
    firsts = nodes[starts]
    if before is not None and (high[0], low[0]) == (before[0], before[1]):
        firsts[0] = before[2]
    keepers: Nodes = firsts[np.cumsum(starts) - 1]
    return keepers


def _blank(path: Path, count: int, kind: type[Any]) -> NDArray[Any]:
    """Return an array of zeros in a new file; an empty one cannot be mapped."""
    if not count:
        path.touch()
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, "w+", shape=(count,)))


def _mapped(path: Path, kind: type[np.uint32] | type[np.bool_] = np.uint32) -> NDArray[Any]:
    """Return an array in a file; an empty one cannot be mapped."""
    return np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)


# --- bands and links --------------------------------------------------------------------------------------------------


def _write_bands(job: _Banding) -> None:
    """Write key and node of the compared documents of a shard, by partition and band."""
    if job.out.exists():
        return
    signatures = signatures_of(job.files, job.size)
    own = slice(job.first, job.first + len(signatures))
    compared = np.flatnonzero(_mapped(job.index.compared, np.bool_)[own])
    nodes = _mapped(job.index.nodes)[own][compared]
    keys = band_keys(np.ascontiguousarray(signatures[compared]), job.bands)
    buckets = (keys % np.uint64(job.partitions)).astype(np.int64) * job.bands + np.arange(job.bands)[:, None]
    table = pa.table([keys.ravel(), np.tile(nodes, job.bands)], schema=_BAND)
    write_buckets(job.out, table, buckets.ravel(), {})


def _write_links(job: _Linking) -> None:
    """Write the links of a partition, a spanning forest, in the order of bands and keys."""
    if job.out.exists():
        return
    shared = [_shared_keys(job, band) for band in range(job.bands)]
    members = np.unique(np.concatenate([nodes for _, nodes in shared]))
    parents = np.arange(len(members), dtype=np.uint32)
    slots = np.zeros(len(members), np.uint32)
    tables = [_LINK.empty_table()]
    for band, (band_keys_, nodes) in enumerate(shared):
        local = np.searchsorted(members, nodes).astype(np.uint32)
        keys, local = _apart(band_keys_, local, parents)
        for own in _chunks(keys):
            chosen = np.unique(local[own])
            documents, places = _fetched(job.shards, job.index, members[chosen])
            slots[chosen] = places
            pairs, alike = link(keys[own], local[own], slots, documents, job.threshold, parents)
            order = np.argsort(local[own], kind="stable")
            found = order[np.searchsorted(local[own][order], pairs[:, 1])]
            left, right = members[pairs[:, 0]], members[pairs[:, 1]]
            bands = np.full(len(pairs), band, np.uint8)
            tables.append(pa.table([bands, keys[own][found], left, right, alike], schema=_LINK))
    table = pa.concat_tables(tables)
    write_buckets(job.out, table, np.zeros(len(table), np.int64), {})


def _shared_keys(job: _Linking, band: int) -> tuple[NDArray[np.uint64], Nodes]:
    """Return the keys of a band that several documents have, with their nodes, sorted by key, then node."""
    bucket = job.partition * job.bands + band
    table = pa.Table.from_batches(read_buckets(job.banded, bucket, bucket + 1), _BAND)
    keys, nodes = table["key"].to_numpy(), table["node"].to_numpy()
    order = np.lexsort((nodes, keys))
    keys, nodes = keys[order], nodes[order]
    same = keys[1:] == keys[:-1]
    several = np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(keys) else np.empty(0, bool)
    return keys[several], nodes[several]


def _apart(keys: NDArray[np.uint64], nodes: Nodes, parents: Nodes) -> tuple[NDArray[np.uint64], Nodes]:
    """Return the rows of the keys whose documents are not all joined yet."""
    if not len(keys):
        return keys, nodes
    own = roots_of(parents, nodes)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    apart = np.minimum.reduceat(own, starts) != np.maximum.reduceat(own, starts)
    rows = np.repeat(apart, np.diff(np.append(starts, len(keys))))
    return keys[rows], nodes[rows]


def _chunks(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of about CHUNK documents of complete keys, or a part of a key that more documents have.

    `link` compares a document with the first of its key and with those in a window before it, so a part has them too.
    """
    first, count = 0, len(keys)
    while first < count:
        last = min(count, first + CHUNK)
        if last < count:
            last = int(np.searchsorted(keys, keys[last]))
        if last > first:
            yield np.arange(first, last)
        else:  # one key
            last = int(np.searchsorted(keys, keys[first], side="right"))
            for start in range(first, last, CHUNK):
                before = np.arange(max(first + 1, start - WINDOW), start)
                yield np.concatenate(
                    [[first] if start > first else [], before, np.arange(start, min(last, start + CHUNK))]
                ).astype(np.int64)
        first = last


def _fetched(shards: Shards, index: Index, nodes: Nodes) -> tuple[Documents, Nodes]:
    """Return the sketches of some nodes, and the number of each node among them."""
    places = _mapped(index.places)[nodes].astype(np.int64)
    order = np.argsort(places)
    numbers = np.empty(len(nodes), np.uint32)
    numbers[order] = np.arange(len(nodes), dtype=np.uint32)
    return fetch(shards.files, shards.firsts, places[order], shards.size), numbers


# --- clusters ---------------------------------------------------------------------------------------------------------


def _route(job: _Routing) -> None:
    """Write the links of a partition with their component, by group of components."""
    if job.out.exists():
        return
    labels = _mapped(job.labels)
    table = pa.Table.from_batches(read_buckets([job.links], 0, 1), _LINK)
    own = labels[table["left"].to_numpy()]
    groups = (own.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)) % np.uint64(job.groups)
    write_buckets(job.out, table.append_column("label", pa.array(own)), groups, {})


def _cluster(job: _Clustering) -> None:
    """Write the documents to drop of a group of components."""
    if job.out.exists():
        return
    schema = _LINK.append(pa.field("label", pa.uint32()))
    table = pa.Table.from_batches(read_buckets(job.routed, job.group, job.group + 1), schema)
    order = np.lexsort((table["key"].to_numpy(), table["band"].to_numpy()))
    left, right, labels = (table[name].to_numpy()[order] for name in ("left", "right", "label"))
    nodes, first = np.unique(np.concatenate([left, right]), return_index=True)
    trees = np.concatenate([labels, labels])[first]
    ends = [np.searchsorted(nodes, own).astype(np.uint32) for own in (left, right)]
    kept = forest(ends[0], ends[1], len(nodes))
    links = Links(np.stack([left[kept], right[kept]], axis=1), table["similarity"].to_numpy()[order][kept])
    clustered = _stars if job.linkage == "star" else _chains
    drops = clustered(job, nodes, trees, links)
    write_buckets(job.out, drops, np.zeros(len(drops), np.int64), {})


def _stars(job: _Clustering, nodes: Nodes, trees: Nodes, links: Links) -> pa.Table:
    """Return the documents that are similar to a kept one; each is dropped for that one alone."""
    ranks = _mapped(job.index.ranks)[nodes]
    order = np.lexsort((ranks, trees))
    nodes, trees = nodes[order], trees[order]
    tables = [_DROP.empty_table()]
    for own in _complete(trees):
        documents, slots = _fetched(job.shards, job.index, nodes[own])
        places, alike = stars(documents, slots, trees[own], job.threshold)
        dropped = places != np.arange(len(places))
        kept = nodes[own][places[dropped]]
        tables.append(pa.table([nodes[own][dropped], kept, alike[dropped], kept], schema=_DROP))
    return pa.concat_tables(tables)


def _complete(trees: Nodes) -> Iterator[slice]:
    """Yield slices of about CHUNK documents of complete clusters."""
    first = 0
    while first < len(trees):
        last = int(np.searchsorted(trees, trees[min(len(trees), first + CHUNK) - 1], side="right"))
        yield slice(first, last)
        first = last


def _chains(job: _Clustering, nodes: Nodes, trees: Nodes, links: Links) -> pa.Table:
    """Return the dropped documents of every cluster: all but the first in the order of keeping.

    The `original` of a document is the kept one if the two are similar themselves, else its most similar neighbor among
    the links of the cluster.
    """
    order = np.lexsort((_mapped(job.index.ranks)[nodes], trees))
    clusters, first = np.unique(trees[order], return_index=True)
    kept = nodes[order[first]][np.searchsorted(clusters, trees)]
    neighbors, alike = _nearest(links)
    dropped = nodes != kept
    nodes, neighbors, alike, kept = nodes[dropped], neighbors[dropped], alike[dropped], kept[dropped]
    tables = [_DROP.empty_table()]
    for start in range(0, len(nodes), CHUNK):
        own = slice(start, start + CHUNK)
        both = np.unique(np.concatenate([nodes[own], kept[own]]))
        documents, slots = _fetched(job.shards, job.index, both)
        one, other = (slots[np.searchsorted(both, ends[own])] for ends in (nodes, kept))
        direct = similarities(documents, one, other, job.threshold)
        near = direct >= job.threshold
        originals, nearest = np.where(near, kept[own], neighbors[own]), np.where(near, direct, alike[own])
        tables.append(pa.table([nodes[own], originals, nearest, kept[own]], schema=_DROP))
    return pa.concat_tables(tables)


def _nearest(links: Links) -> tuple[Nodes, NDArray[np.float64]]:
    """Return the most similar neighbor of each linked node, ascending, and their similarity."""
    pairs = np.concatenate([links.pairs, links.pairs[:, ::-1]])
    alike = np.concatenate([links.similarities, links.similarities])
    order = np.lexsort((pairs[:, 1], -alike, pairs[:, 0]))
    _, best = np.unique(pairs[order, 0], return_index=True)
    return pairs[order[best], 1], alike[order[best]]
