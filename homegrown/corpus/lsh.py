"""Locality-sensitive hashing: signatures that agree in a band, their similarity, and clusters.

Banding follows Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled

WINDOW = 32  # preceding documents of a bucket to compare with; smaller buckets compare every pair


CERTAINTY = 0.9  # probability that a pair of just the wanted similarity is a candidate
_EPSILON = 1e-9  # so that 7 of 10 equals 0.7


class Documents(NamedTuple):
    """The signatures and shingles of s documents.

    `signatures` (s, permutations) uint32. `shingles` (uint32) has the distinct shingles of document i in ascending
    order from `starts[i]` to `starts[i + 1]` (int64); with an empty `starts`, only signatures are compared.
    """

    signatures: NDArray[np.uint32]
    shingles: NDArray[np.uint32]
    starts: NDArray[np.int64]


def probability(similarity: float, bands: int, rows: int) -> float:
    """Return the probability that a pair of this Jaccard similarity agrees in a band: 1 - (1 - s^rows)^bands."""
    return float(1 - (1 - similarity**rows) ** bands)


def banding(similarity: float, permutations: int) -> tuple[int, int]:
    """Return bands and rows within `permutations` that fit a similarity.

    As many rows, for as few false candidates, as make a pair of just this similarity a candidate with a probability of
    at least 0.9; more similar pairs are more likely candidates. Candidates are verified, so weighing false positives as
    `datasketch` does gains nothing. One row if no number of rows is enough.
    """
    for rows in range(permutations, 1, -1):
        if probability(similarity, permutations // rows, rows) >= CERTAINTY:
            return permutations // rows, rows
    return permutations, 1


@compiled
def band_keys(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """Return a 64-bit key for each band of each signature: (bands, n) from (n, bands x rows)."""
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
    documents: Documents,
    threshold: float,
    parents: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Join similar documents among those with equal keys of one band; return the new links.

    `keys` (m,) and `nodes` (m,) are sorted by key, then node; `slots[node]` is a node's index in `documents`. Two are
    similar if their `similarity` is at least `threshold`. `parents` (all nodes) is the union-find forest, modified in
    place; nodes already joined are not compared. Returns pairs of nodes (k, 2) and their similarities.
    """
    pairs = np.empty((nodes.size, 2), np.uint32)
    similarities_ = np.empty(nodes.size, np.float64)
    count = 0
    first = 0
    for i in range(1, nodes.size):
        if keys[i] != keys[first]:
            first = i
            continue
        nearest = max(first + 1, i - WINDOW)
        for j in range(nearest - 1, i):
            other = nodes[first if j < nearest else j]
            root, own = _root(parents, other), _root(parents, nodes[i])
            if root == own:
                continue
            alike = similarity(documents, slots[other], slots[nodes[i]], threshold)
            if alike >= threshold - _EPSILON:
                parents[max(root, own)] = min(root, own)
                pairs[count, 0], pairs[count, 1], similarities_[count] = other, nodes[i], alike
                count += 1
    return pairs[:count].copy(), similarities_[:count].copy()


@compiled
def similarities(
    documents: Documents, left: NDArray[np.uint32], right: NDArray[np.uint32], threshold: float
) -> NDArray[np.float64]:
    """Return the `similarity` of documents `left[i]` and `right[i]`."""
    result = np.empty(left.size, np.float64)
    for i in range(left.size):
        result[i] = similarity(documents, left[i], right[i], threshold)
    return result


@compiled
def stars(
    documents: Documents, members: NDArray[np.uint32], trees: NDArray[np.uint32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each member of a cluster the place of its representative, and their similarity.

    `members` (m,) are documents by number, sorted by their cluster `trees` (m,), the most wanted of a cluster first. In
    this order, each has the first representative with a similarity of at least `threshold`, else itself (greedy star
    clustering, Aslam et al. 2004). So no two representatives of a cluster are similar.
    """
    places, similarities_ = np.arange(members.size), np.ones(members.size, np.float64)
    centers = np.empty(members.size, np.int64)
    count = 0
    for i in range(members.size):
        if i == 0 or trees[i] != trees[i - 1]:
            count = 0
        for k in range(count):
            alike = similarity(documents, members[centers[k]], members[i], threshold)
            if alike >= threshold - _EPSILON:
                places[i], similarities_[i] = centers[k], alike
                break
        if places[i] == i:
            centers[count] = i
            count += 1
    return places, similarities_


@compiled
def similarity(documents: Documents, left: int, right: int, threshold: float) -> float:
    """Return the Jaccard similarity of two documents: true if their shingles are known, else estimated.

    Shingles are not compared if the estimate is more than four standard errors below `threshold`.
    """
    size = documents.signatures.shape[1]
    estimate: float = agreement(documents.signatures[left], documents.signatures[right]) / size
    if documents.starts.size == 0 or estimate < threshold - 2 / np.sqrt(size):  # an error is at most .5 / sqrt(size)
        return estimate
    one = documents.shingles[documents.starts[left] : documents.starts[left + 1]]
    other = documents.shingles[documents.starts[right] : documents.starts[right + 1]]
    return _jaccard(one, other)


@compiled
def agreement(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> int:
    """Return the number of equal entries of two signatures."""
    count = 0
    for k in range(left.size):
        count += left[k] == right[k]
    return count


@compiled
def _jaccard(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> float:
    """Return the Jaccard similarity of two sets in ascending order."""
    both = i = j = 0
    while i < left.size and j < right.size:
        one, other = left[i], right[j]
        both += one == other
        i += one <= other
        j += other <= one
    return both / max(1, left.size + right.size - both)


@compiled
def roots(parents: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the root of every node: the least node of its tree."""
    result = np.empty_like(parents)
    for node in range(parents.size):
        result[node] = _root(parents, node)
    return result


@compiled
def _root(parents: NDArray[np.uint32], node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@compiled
def roots_of(parents: NDArray[np.uint32], nodes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the root of each of some nodes."""
    result = np.empty_like(nodes)
    for i in range(nodes.size):
        result[i] = _root(parents, nodes[i])
    return result


@compiled
def forest(left: NDArray[np.uint32], right: NDArray[np.uint32], nodes: int) -> NDArray[np.bool_]:
    """Return which links join two trees of `nodes` nodes, in their order (Kruskal 1956)."""
    parents = np.arange(nodes).astype(np.uint32)
    joining = np.zeros(left.size, np.bool_)
    for i in range(left.size):
        one, other = _root(parents, left[i]), _root(parents, right[i])
        if one != other:
            parents[max(one, other)] = min(one, other)
            joining[i] = True
    return joining
