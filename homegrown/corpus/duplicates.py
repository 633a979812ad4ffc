"""Duplicates found from sketches: exact groups, near-duplicate clusters, and the kept document of each.

Documents have two numbers: `place` in the order of the shards, `node` in the order of ids. So no result depends on the
order of documents or on the shards. Memory: about 30 bytes per document. Signatures and band keys are in memory-mapped
files; DuckDB sorts and spills.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.recipe import DedupSettings
from homegrown.corpus.documents import row_count
from homegrown.corpus.lsh import Documents, band_keys, link, roots, similarities, stars

Nodes = NDArray[np.uint32]

# The kept document of a group is the first in this order.
_ORDERS = {
    "longest": "length DESC, node",
    "first": "place",
    "best_quality": "quality DESC, length DESC, node",
}


class Part(NamedTuple):
    """The sketches of a shard (see `homegrown.corpus.dedup`), and its sets of shingles if they are compared."""

    sketches: Path
    shingles: Path | None


class Index(NamedTuple):
    """All documents by node: place, kept document of the exact group, rank in the order of keeping, words."""

    places: Nodes
    keepers: Nodes
    ranks: Nodes
    words: NDArray[np.int32]


class Compared(NamedTuple):
    """The s documents to compare: `nodes` (s,), their sketches, band keys (bands, s); `slots` by node."""

    nodes: Nodes
    slots: Nodes
    documents: Documents
    keys: NDArray[np.uint64]


class Links(NamedTuple):
    """Pairs of similar nodes (k, 2), a spanning forest of the clusters, and their Jaccard similarities."""

    pairs: Nodes
    similarities: NDArray[np.float64]


def find_duplicates(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    parts: list[Part],
    settings: DedupSettings,
    bands: int,
    advance: Callable[[], None],
) -> None:
    """Create the table `dropped` of every duplicate among `parts` in `connection`.

    Its columns: `place, id, duplicate_of, kind, similarity, cluster`. `folder` is for memory-mapped files; `advance` is
    called after each band.
    """
    index = _index(connection, [part.sketches for part in parts], settings.keep)
    compared = _spread(folder, parts, index, bands)
    parents = np.arange(len(index.places), dtype=np.uint32)
    links = _link(connection, compared, settings.threshold, parents, advance)
    clustered = _stars if settings.linkage == "star" else _chains
    near = clustered(index, compared, settings.threshold, links, roots(parents))
    connection.register("drops", pa.concat_tables([near, _exact(index, near)]))
    connection.execute(
        """CREATE TABLE dropped AS
        SELECT document.place, document.id, original.id AS duplicate_of, kind, similarity, kept.id AS cluster
        FROM drops
        JOIN documents document ON document.node = drops.node
        JOIN documents original ON original.node = drops.original
        JOIN documents kept ON kept.node = drops.kept
        ORDER BY document.place"""
    )
    connection.unregister("drops")


def _index(connection: duckdb.DuckDBPyConnection, sketches: list[Path], keep: str) -> Index:
    """Create the table `documents` (place, node, id) and return the arrays by node."""
    connection.execute(
        "CREATE TABLE sketches (place UINTEGER, id VARCHAR, high UBIGINT, low UBIGINT, length INTEGER, words INTEGER, "
        "quality DOUBLE)"
    )
    quality = "quality" if keep == "best_quality" else "0"
    first = 0
    for part in sketches:
        connection.execute(
            f"INSERT INTO sketches SELECT ? + file_row_number, id, digest_high, digest_low, length, words, {quality} "
            "FROM read_parquet(?, file_row_number = true)",
            [first, str(part)],
        )
        first += row_count(part)
    connection.execute(
        f"""CREATE TABLE ranked AS SELECT *, (row_number() OVER (ORDER BY {_ORDERS[keep]}) - 1)::UINTEGER AS rank
        FROM (SELECT *, (row_number() OVER (ORDER BY id, place) - 1)::UINTEGER AS node FROM sketches)"""
    )
    arrays = connection.sql(
        """SELECT place, first_value(node) OVER (PARTITION BY high, low ORDER BY rank) AS keeper, rank, words
        FROM ranked ORDER BY node"""
    ).fetchnumpy()
    connection.execute("CREATE TABLE documents AS SELECT place, node, id FROM ranked")
    connection.execute("DROP TABLE ranked; DROP TABLE sketches")
    return Index(*(np.asarray(arrays[name]) for name in ("place", "keeper", "rank", "words")))


def _spread(folder: Path, parts: list[Part], index: Index, bands: int) -> Compared:
    """Write sketches to memory-mapped files, except those of exact duplicates and of texts without words."""
    everyone = np.arange(len(index.places), dtype=np.uint32)
    nodes = everyone[(index.keepers == everyone) & (index.words > 0)]
    nodes = nodes[np.argsort(index.places[nodes])]
    slots = np.zeros(len(everyone), np.uint32)
    slots[nodes] = np.arange(len(nodes), dtype=np.uint32)
    places = index.places[nodes]
    size = _signature_size(parts)
    signatures: Nodes = _mapped(folder / "signatures.u32", np.uint32, (len(nodes), size))
    keys: NDArray[np.uint64] = _mapped(folder / "keys.u64", np.uint64, (bands, len(nodes)))
    counts = [np.empty(0, np.int64)]
    first = 0
    with (folder / "shingles.u32").open("wb") as file:
        for part in parts:
            column = pq.read_table(part.sketches, columns=["signature"])["signature"].combine_chunks()
            rows = np.frombuffer(column.buffers()[1], np.uint32)[: len(column) * size].reshape(-1, size)
            low, high = np.searchsorted(places, [first, first + len(column)])
            own = places[low:high] - first
            signatures[low:high] = rows[own]
            keys[:, low:high] = band_keys(signatures[low:high], bands)
            if part.shingles is not None:
                counts.append(_append_sets(file, part.shingles, own))
            first += len(column)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]) if len(counts) > 1 else np.empty(0, np.int64)
    shingles = np.empty(0, np.uint32)
    if starts.size and starts[-1]:
        shingles = np.memmap(folder / "shingles.u32", np.uint32, "r+")
    return Compared(nodes, slots, Documents(signatures, shingles, starts), keys)


def _signature_size(parts: list[Part]) -> int:
    """Return the number of permutations."""
    return int(pq.read_schema(parts[0].sketches).field("signature").type.byte_width // 4) if parts else 0


def _append_sets(file: BinaryIO, path: Path, rows: Nodes) -> NDArray[np.int64]:
    """Append the shingles of some rows of a shard, ascending, to a file; return the number of each."""
    with pa.memory_map(str(path)) as mapped:
        column = pa.ipc.open_file(mapped).read_all()["shingles"].combine_chunks().take(pa.array(rows))
        file.write(np.asarray(column.flatten()).tobytes())
        return np.asarray(column.value_lengths()).astype(np.int64)


def _mapped(path: Path, kind: type[np.unsignedinteger[Any]], shape: tuple[int, int]) -> NDArray[Any]:
    """Return an array in a memory-mapped file; an empty one needs no file."""
    return np.memmap(path, kind, "w+", shape=shape) if all(shape) else np.empty(shape, kind)


def _link(
    connection: duckdb.DuckDBPyConnection,
    compared: Compared,
    threshold: float,
    parents: Nodes,
    advance: Callable[[], None],
) -> Links:
    """Join in `parents` documents that agree in a band and are similar, band by band."""
    pairs, alike = [np.empty((0, 2), np.uint32)], [np.empty(0, np.float64)]
    for keys in compared.keys:
        connection.register("band", pa.table({"key": np.asarray(keys), "node": compared.nodes}))
        batches = connection.sql("SELECT key, node FROM band ORDER BY key, node").to_arrow_reader(1_000_000)
        for bucket_keys, nodes in _complete_buckets(batches):
            linked, own = link(bucket_keys, nodes, compared.slots, compared.documents, threshold, parents)
            pairs.append(linked)
            alike.append(own)
        connection.unregister("band")
        advance()
    return Links(np.concatenate(pairs), np.concatenate(alike))


def _complete_buckets(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[NDArray[np.uint64], Nodes]]:
    """Yield keys and nodes of sorted batches without splitting a bucket."""
    keys, nodes = np.empty(0, np.uint64), np.empty(0, np.uint32)
    for batch in batches:
        keys = np.concatenate([keys, batch["key"].to_numpy()])
        nodes = np.concatenate([nodes, batch["node"].to_numpy()])
        complete = int(np.searchsorted(keys, keys[-1]))
        yield keys[:complete], nodes[:complete]
        keys, nodes = keys[complete:], nodes[complete:]
    yield keys, nodes


def _stars(index: Index, compared: Compared, threshold: float, links: Links, tree: Nodes) -> pa.Table:
    """Return the documents that are similar to a kept one; each is dropped for that one alone."""
    nodes = np.unique(links.pairs)
    nodes = nodes[np.lexsort((index.ranks[nodes], tree[nodes]))]
    places, alike = stars(compared.documents, compared.slots[nodes], tree[nodes], threshold)
    dropped = places != np.arange(len(nodes))
    kept = nodes[places[dropped]]
    return _drops(nodes[dropped], kept, "near", alike[dropped], kept)


def _chains(index: Index, compared: Compared, threshold: float, links: Links, tree: Nodes) -> pa.Table:
    """Return the dropped documents of every cluster: all but the first in the order of keeping.

    The `original` of a document is the kept one if the two are similar themselves, else its most similar neighbor among
    the links of the cluster.
    """
    nodes = np.unique(links.pairs)
    order = np.lexsort((index.ranks[nodes], tree[nodes]))
    clusters, first = np.unique(tree[nodes][order], return_index=True)
    kept = nodes[order[first]][np.searchsorted(clusters, tree[nodes])]
    neighbors, alike = _nearest(links)
    dropped = nodes != kept
    nodes, neighbors, alike, kept = nodes[dropped], neighbors[dropped], alike[dropped], kept[dropped]

    direct = similarities(compared.documents, compared.slots[nodes], compared.slots[kept], threshold)
    originals = np.where(direct >= threshold, kept, neighbors)
    return _drops(nodes, originals, "near", np.where(direct >= threshold, direct, alike), kept)


def _nearest(links: Links) -> tuple[Nodes, NDArray[np.float64]]:
    """Return the most similar neighbor of each linked node, ascending, and their similarity."""
    pairs = np.concatenate([links.pairs, links.pairs[:, ::-1]])
    alike = np.concatenate([links.similarities, links.similarities])
    order = np.lexsort((pairs[:, 1], -alike, pairs[:, 0]))
    _, best = np.unique(pairs[order, 0], return_index=True)
    return pairs[order[best], 1], alike[order[best]]


def _exact(index: Index, near: pa.Table) -> pa.Table:
    """Return the dropped documents of exact groups; the kept one may be a near-duplicate of the original."""
    kept = np.arange(len(index.keepers), dtype=np.uint32)
    kept[near["node"].to_numpy()] = near["kept"].to_numpy()
    nodes = np.flatnonzero(index.keepers != np.arange(len(kept))).astype(np.uint32)
    originals = index.keepers[nodes]
    return _drops(nodes, originals, "exact", np.ones(len(nodes)), kept[originals])


def _drops(nodes: Nodes, originals: Nodes, kind: str, similarities: NDArray[np.float64], kept: Nodes) -> pa.Table:
    kinds = pa.array([kind] * len(nodes), pa.string())
    columns = {"node": nodes, "original": originals, "kind": kinds, "similarity": similarities, "kept": kept}
    return pa.table(columns)
