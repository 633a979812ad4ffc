"""Connected components of links between nodes: by one union-find, or by iterated label passing in shards of work.

The label of a node is the least node of its component. Both ways give the same file of labels.
"""

import hashlib
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled
from homegrown.corpus.exchange import facts_of, read_buckets, write_buckets
from homegrown.corpus.lsh import roots
from homegrown.util.files import replacing
from homegrown.util.parallel import map_ordered

UNION_MEMORY = 2_000_000_000
"""Bytes of the forest of one union-find, 4 per node; more nodes pass labels instead."""

_RANGE = 4_000_000  # nodes whose sets are in memory at once
Numbers = NDArray[np.uint64]
_PASSED = pa.schema([("node", pa.uint32()), ("member", pa.uint32())])


@dataclass(frozen=True)
class _Uniting:
    links: tuple[Path, ...]  # files with the columns left and right
    nodes: int
    labels: Path


@dataclass(frozen=True)
class _Passing:
    """One round of label passing for the nodes of range `number` of `ranges`."""

    rows: tuple[Path, ...]
    first: bool  # rows are links
    number: int
    ranges: int
    nodes: int
    out: Path


@dataclass(frozen=True)
class _Labeling:
    rows: tuple[Path, ...]
    ranges: int
    nodes: int
    labels: Path


def label(links: tuple[Path, ...], nodes: int, labels: Path, folder: Path, executor: Executor) -> None:
    """Write the label of every node to the file `labels` (uint32); `links` are files of `homegrown.corpus.exchange`."""
    if 4 * nodes <= UNION_MEMORY:
        executor.submit(_unite, _Uniting(links, nodes, labels)).result()
        return
    # Hash-to-min (Rastogi et al. 2013): the set of a node goes to its least member, and the least member to the others.
    ranges = 1 + nodes // _RANGE
    rows, states = links, [""] * ranges
    for number in range(64):  # rounds grow with the logarithm of a component's size
        jobs = [
            _Passing(rows, number == 0, part, ranges, nodes, folder / f"{number}" / f"{part:05d}.arrow")
            for part in range(ranges)
        ]
        now = list(map_ordered(executor, _pass, jobs))
        rows = tuple(job.out for job in jobs)
        if now == states:
            break
        states = now
    executor.submit(_write_labels, _Labeling(rows, ranges, nodes, labels)).result()


def _unite(job: _Uniting) -> None:
    if job.labels.exists():
        return
    parents = np.arange(job.nodes, dtype=np.uint32)
    for batch in read_buckets(job.links, 0, 2**31):
        _join(parents, batch["left"].to_numpy(), batch["right"].to_numpy())
    with replacing(job.labels, scratch=True) as temporary:
        roots(parents).tofile(temporary)


@compiled
def _join(parents: NDArray[np.uint32], left: NDArray[np.uint32], right: NDArray[np.uint32]) -> None:
    for i in range(left.size):
        one, other = left[i], right[i]
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = parents[other]
        parents[max(one, other)] = min(one, other)


def _pass(job: _Passing) -> str:
    """Write what the nodes of a range pass on; return a digest of their sets."""
    if not job.out.exists():
        sets = _sets_of_links(job) if job.first else _sets(job.rows, job.number)
        nodes, members = _unpacked(sets)
        least = members[np.searchsorted(nodes, nodes)]  # the first of a node
        passed = np.concatenate([_packed(least, members), _packed(members, least), _packed(nodes, least)])
        targets, values = _unpacked(np.unique(passed))
        table = pa.table([targets.astype(np.uint32), values.astype(np.uint32)], schema=_PASSED)
        state = hashlib.sha256(sets.tobytes()).hexdigest()
        write_buckets(job.out, table, _range_of(targets, job.ranges, job.nodes), {"state": state})
    found: str = facts_of(job.out)["state"]
    return found


def _packed(nodes: Numbers, members: Numbers) -> Numbers:
    return nodes << np.uint64(32) | members


def _unpacked(pairs: Numbers) -> tuple[Numbers, Numbers]:
    return pairs >> np.uint64(32), pairs & np.uint64(2**32 - 1)


def _range_of(nodes: Numbers, ranges: int, count: int) -> NDArray[np.int64]:
    return (nodes * np.uint64(ranges) // np.uint64(count)).astype(np.int64)


def _sets_of_links(job: _Passing) -> Numbers:
    """Return node and neighbor of the links of a range's nodes, which are their own neighbors too."""
    found = [np.empty(0, np.uint64)]
    for batch in read_buckets(job.rows, 0, 2**31):
        left, right = (batch[name].to_numpy().astype(np.uint64) for name in ("left", "right"))
        for one, other in ((left, right), (right, left)):
            own = _range_of(one, job.ranges, job.nodes) == job.number
            found += [_packed(one[own], other[own]), _packed(one[own], one[own])]
    return np.unique(np.concatenate(found))


def _sets(rows: tuple[Path, ...], number: int) -> Numbers:
    """Return node and member of the sets of a range's nodes, ascending."""
    found = [np.empty(0, np.uint64)]
    for batch in read_buckets(rows, number, number + 1):
        found.append(_packed(*(batch[name].to_numpy().astype(np.uint64) for name in ("node", "member"))))
    return np.unique(np.concatenate(found))


def _write_labels(job: _Labeling) -> None:
    if job.labels.exists():
        return
    with replacing(job.labels, scratch=True) as temporary, temporary.open("wb") as stream:
        for number in range(job.ranges):
            first, last = (-(-edge * job.nodes // job.ranges) for edge in (number, number + 1))
            labels = np.arange(first, last, dtype=np.uint32)
            nodes, members = _unpacked(_sets(job.rows, number))
            labels[nodes - np.uint64(first)] = members[np.searchsorted(nodes, nodes)]
            stream.write(labels.tobytes())
