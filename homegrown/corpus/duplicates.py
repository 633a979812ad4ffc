"""Which documents duplicate which, from their sketches: exact groups, near-duplicate clusters, the one that is kept.

Documents are numbered in two ways: `place` is the order of the shards, `node` the order of ids, so that no result
depends on how documents are ordered or cut into shards. Held in memory: some 30 bytes a document. Signatures and band
keys lie in memory-mapped files; what is sorted is sorted by DuckDB, which spills.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.corpus.documents import row_count
from homegrown.corpus.lsh import agreements, band_keys, link, roots
from homegrown.recipe import DedupSettings

Nodes = NDArray[np.uint32]
Counts = NDArray[np.int32]


class Index(NamedTuple):
    """All documents by node: place, the one kept of its exact group, characters, words."""

    places: Nodes
    keepers: Nodes
    lengths: Counts
    words: Counts


class Signed(NamedTuple):
    """The s documents to compare: `nodes` (s,), signatures (s, permutations), `keys` (bands, s); `slots` by node."""

    nodes: Nodes
    slots: Nodes
    signatures: Nodes
    keys: NDArray[np.uint64]


class Links(NamedTuple):
    """Pairs of nodes (k, 2) that are alike, a spanning forest of the clusters, and in how many places they agree."""

    pairs: Nodes
    agreements: Counts


def find_duplicates(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    parts: list[Path],
    settings: DedupSettings,
    advance: Callable[[], None],
) -> None:
    """Leave in `connection` a table `dropped` of every duplicate, from the sketches in `parts`.

    Its columns: `place, id, duplicate_of, kind, similarity, cluster`. `folder` takes the memory-mapped files; `advance`
    is called after each band.
    """
    index = _index(connection, parts)
    signed = _spread(folder, parts, index, settings)
    parents = np.arange(len(index.places), dtype=np.uint32)
    least = max(1, math.ceil(settings.threshold * settings.bands * settings.rows - 1e-9))
    links = _link(connection, signed, least, parents, advance)
    near = _near(index, signed, least, links, roots(parents))
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


def _index(connection: duckdb.DuckDBPyConnection, parts: list[Path]) -> Index:
    """Make the table `documents` (place, node, id) and return the arrays by node."""
    connection.execute(
        "CREATE TABLE sketches (place UINTEGER, id VARCHAR, high UBIGINT, low UBIGINT, length INTEGER, words INTEGER)"
    )
    first = 0
    for part in parts:
        connection.execute(
            "INSERT INTO sketches SELECT ? + file_row_number, id, digest_high, digest_low, length, words "
            "FROM read_parquet(?, file_row_number = true)",
            [first, str(part)],
        )
        first += row_count(part)
    connection.execute(
        "CREATE TABLE ranked AS SELECT *, (row_number() OVER (ORDER BY id, place) - 1)::UINTEGER AS node FROM sketches"
    )
    arrays = connection.sql(
        """SELECT place, length, words,
            first_value(node) OVER (PARTITION BY high, low ORDER BY length DESC, node) AS keeper
        FROM ranked ORDER BY node"""
    ).fetchnumpy()
    connection.execute("CREATE TABLE documents AS SELECT place, node, id FROM ranked; DROP TABLE ranked")
    connection.execute("DROP TABLE sketches")
    return Index(*(np.asarray(arrays[name]) for name in ("place", "keeper", "length", "words")))


def _spread(folder: Path, parts: list[Path], index: Index, settings: DedupSettings) -> Signed:
    """Write signatures and band keys of the documents to compare, exact duplicates and wordless ones left out."""
    everyone = np.arange(len(index.places), dtype=np.uint32)
    nodes = everyone[(index.keepers == everyone) & (index.words > 0)]
    nodes = nodes[np.argsort(index.places[nodes])]
    slots = np.zeros(len(everyone), np.uint32)
    slots[nodes] = np.arange(len(nodes), dtype=np.uint32)
    places = index.places[nodes]
    size = settings.bands * settings.rows
    signatures: Nodes = _mapped(folder / "signatures.u32", np.uint32, (len(nodes), size))
    keys: NDArray[np.uint64] = _mapped(folder / "keys.u64", np.uint64, (settings.bands, len(nodes)))
    first = 0
    for part in parts:
        column = pq.read_table(part, columns=["signature"])["signature"].combine_chunks()
        rows = np.frombuffer(column.buffers()[1], np.uint32)[: len(column) * size].reshape(-1, size)
        low, high = np.searchsorted(places, [first, first + len(column)])
        signatures[low:high] = rows[places[low:high] - first]
        keys[:, low:high] = band_keys(signatures[low:high], settings.bands)
        first += len(column)
    return Signed(nodes, slots, signatures, keys)


def _mapped(path: Path, kind: type[np.unsignedinteger[Any]], shape: tuple[int, int]) -> NDArray[Any]:
    """Return an array in a file of its own, which the system pages in and out; an empty one needs no file."""
    return np.memmap(path, kind, "w+", shape=shape) if all(shape) else np.empty(shape, kind)


def _link(
    connection: duckdb.DuckDBPyConnection, signed: Signed, least: int, parents: Nodes, advance: Callable[[], None]
) -> Links:
    """Join in `parents` what agrees in a band and in at least `least` places of the signature, band by band."""
    pairs, counts = [np.empty((0, 2), np.uint32)], [np.empty(0, np.int32)]
    for keys in signed.keys:
        connection.register("band", pa.table({"key": np.asarray(keys), "node": signed.nodes}))
        batches = connection.sql("SELECT key, node FROM band ORDER BY key, node").to_arrow_reader(1_000_000)
        for bucket_keys, nodes in _whole_buckets(batches):
            linked, alike = link(bucket_keys, nodes, signed.slots, signed.signatures, least, parents)
            pairs.append(linked)
            counts.append(alike)
        connection.unregister("band")
        advance()
    return Links(np.concatenate(pairs), np.concatenate(counts))


def _whole_buckets(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[NDArray[np.uint64], Nodes]]:
    """Yield keys and nodes of sorted batches such that no bucket is cut in two."""
    keys, nodes = np.empty(0, np.uint64), np.empty(0, np.uint32)
    for batch in batches:
        keys = np.concatenate([keys, batch["key"].to_numpy()])
        nodes = np.concatenate([nodes, batch["node"].to_numpy()])
        whole = int(np.searchsorted(keys, keys[-1]))
        yield keys[:whole], nodes[:whole]
        keys, nodes = keys[whole:], nodes[whole:]
    yield keys, nodes


def _near(index: Index, signed: Signed, least: int, links: Links, tree: Nodes) -> pa.Table:
    """Return the drops of every cluster but its longest document (ties: first id).

    A document's `original` is the one kept if the two are alike themselves, else its most similar neighbour among the
    links that brought it into the cluster.
    """
    pairs = np.concatenate([links.pairs, links.pairs[:, ::-1]])
    alike = np.concatenate([links.agreements, links.agreements])
    order = np.lexsort((pairs[:, 1], -alike, pairs[:, 0]))
    nodes, best = np.unique(pairs[order, 0], return_index=True)  # each with its most similar neighbour
    neighbours, alike = pairs[order[best], 1], alike[order[best]]

    order = np.lexsort((nodes, -index.lengths[nodes], tree[nodes]))
    clusters, longest = np.unique(tree[nodes][order], return_index=True)
    kept = nodes[order[longest]][np.searchsorted(clusters, tree[nodes])]
    dropped = nodes != kept
    nodes, neighbours, alike, kept = nodes[dropped], neighbours[dropped], alike[dropped], kept[dropped]

    direct = agreements(nodes, kept, signed.slots, signed.signatures)
    originals = np.where(direct >= least, kept, neighbours)
    similarities = np.where(direct >= least, direct, alike) / signed.signatures.shape[1]
    return _drops(nodes, originals, "near", similarities, kept)


def _exact(index: Index, near: pa.Table) -> pa.Table:
    """Return the drops of exact groups; what is kept of the cluster may be a near-duplicate of the original."""
    kept = np.arange(len(index.keepers), dtype=np.uint32)
    kept[near["node"].to_numpy()] = near["kept"].to_numpy()
    nodes = np.flatnonzero(index.keepers != np.arange(len(kept))).astype(np.uint32)
    originals = index.keepers[nodes]
    return _drops(nodes, originals, "exact", np.ones(len(nodes)), kept[originals])


def _drops(nodes: Nodes, originals: Nodes, kind: str, similarities: NDArray[np.float64], kept: Nodes) -> pa.Table:
    kinds = pa.array([kind] * len(nodes), pa.string())
    columns = {"node": nodes, "original": originals, "kind": kinds, "similarity": similarities, "kept": kept}
    return pa.table(columns)
