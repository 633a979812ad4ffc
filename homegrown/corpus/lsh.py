"""Locality-sensitive hashing: which signatures agree in a band, are alike when compared whole, and form a cluster.

Banding follows Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
"""

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled

WINDOW = 32  # documents before it in a bucket with which one is compared; in smaller buckets that is every pair


@compiled
def band_keys(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """Return one 64-bit key for each band of each signature: (bands, n) from (n, bands x rows)."""
    n, size = signatures.shape
    rows = size // bands
    keys = np.empty((bands, n), np.uint64)
    for i in range(n):
        for band in range(bands):
            key = np.uint64(0x9E3779B97F4A7C15)
            for row in range(band * rows, band * rows + rows):
                key = (key ^ np.uint64(signatures[i, row])) * np.uint64(0xFF51AFD7ED558CCD)
                key ^= key >> np.uint64(32)
            keys[band, i] = key
    return keys


@compiled
def link(
    keys: NDArray[np.uint64],
    nodes: NDArray[np.uint32],
    slots: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
    least: int,
    parents: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Join what is alike among documents with equal keys of one band; return the links that were made.

    `keys` (m,) and `nodes` (m,) are sorted by key, then node. `signatures[slots[node]]` is a node's signature; two are
    alike when they agree in at least `least` places. `parents` (all nodes) is the union-find forest, changed in place;
    nodes that it has joined already are not compared. Returns pairs of nodes (k, 2) and in how many places they agree.
    """
    pairs = np.empty((nodes.size, 2), np.uint32)
    agreements = np.empty(nodes.size, np.int32)
    count = 0
    first = 0
    for i in range(1, nodes.size):
        if keys[i] != keys[first]:
            first = i
            continue
        nearest = max(first + 1, i - WINDOW)
        for j in range(nearest - 1, i):
            other = nodes[first if j < nearest else j]
            alike = _join(other, nodes[i], slots, signatures, least, parents)
            if alike:
                pairs[count, 0], pairs[count, 1], agreements[count] = other, nodes[i], alike
                count += 1
    return pairs[:count].copy(), agreements[:count].copy()


@compiled
def agreements(
    left: NDArray[np.uint32], right: NDArray[np.uint32], slots: NDArray[np.uint32], signatures: NDArray[np.uint32]
) -> NDArray[np.int32]:
    """Return in how many places the signatures of nodes `left[i]` and `right[i]` agree."""
    result = np.empty(left.size, np.int32)
    for i in range(left.size):
        result[i] = _agreement(signatures[slots[left[i]]], signatures[slots[right[i]]])
    return result


@compiled
def roots(parents: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the root of every node: the least node of its tree."""
    result = np.empty_like(parents)
    for node in range(parents.size):
        result[node] = _root(parents, node)
    return result


@compiled
def _join(
    a: int,
    b: int,
    slots: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
    least: int,
    parents: NDArray[np.uint32],
) -> int:
    """Join nodes `a` and `b` if they are alike and not joined yet; return their agreement then, else 0."""
    root_a, root_b = _root(parents, a), _root(parents, b)
    if root_a == root_b:
        return 0
    alike = _agreement(signatures[slots[a]], signatures[slots[b]])
    if alike < least:
        return 0
    parents[max(root_a, root_b)] = min(root_a, root_b)
    return alike


@compiled
def _root(parents: NDArray[np.uint32], node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@compiled
def _agreement(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> int:
    count = 0
    for k in range(left.size):
        count += left[k] == right[k]
    return count
