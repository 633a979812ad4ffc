"""The order in which training draws windows of several sources: a pure function of the place in the run.

A reading of a phase draws each of its sources a fixed number of times. It is cut into blocks of about `_BLOCK`
windows, in which every source has its share; the order within a block is seeded. A source's own draws are sequential:
epoch after epoch, each in its own order, and a phase continues where the previous one stopped, as in Marin's mixtures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from homegrown.data.permutation import Permutation
from homegrown.util.seeds import derive

_BLOCK = 4096
"""Windows whose order is computed at once; bounds memory."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """The draws of a block in order: the number of each one's source, and which draw of that it is."""

    first: int  # window of the run
    sources: Numbers
    draws: Numbers

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class _Phase:
    first: int  # window of the run
    counts: Numbers  # windows of each source in a reading
    before: Numbers  # draws of each source before the phase
    ends: Numbers  # of the blocks of a reading


class Order:
    """The draws of all phases, one after the other; the last phase has no end."""

    def __init__(self, counts: Sequence[Sequence[int]], lengths: Sequence[int], seed: int):
        """Prepare phases that draw `counts[phase][source]` windows in a reading; all but the last have `lengths`."""
        self._seed = seed
        self._phases: list[_Phase] = []
        first, before = 0, np.zeros(len(counts[0]), np.int64)
        for phase, length in zip(map(_numbers, counts), [*lengths, 0], strict=True):
            blocks = -(-int(phase.sum()) // _BLOCK)
            given = phase * np.arange(1, blocks + 1)[:, None] // blocks
            self._phases.append(_Phase(first, phase, before, given.sum(axis=1)))
            first += length
            before = self.drawn(first) if length else before

    def block(self, window: int) -> Block:
        """Return the block with a window of the run."""
        number = max(index for index, phase in enumerate(self._phases) if phase.first <= window)
        phase = self._phases[number]
        blocks = len(phase.ends)
        reading, within = divmod(window - phase.first, int(phase.ends[-1]))
        place = int(np.searchsorted(phase.ends, within, side="right"))
        begin, end = (phase.counts * (reading * blocks + place + step) // blocks for step in (0, 1))
        sources = np.repeat(np.arange(len(begin)), end - begin)
        sources = sources[Permutation(len(sources), derive(self._seed, "mix", number, reading, place))(_range(sources))]
        draws = np.empty_like(sources)
        for source in range(len(begin)):
            own = sources == source
            draws[own] = phase.before[source] + begin[source] + np.arange(np.count_nonzero(own))
        start = phase.first + reading * int(phase.ends[-1]) + (int(phase.ends[place - 1]) if place else 0)
        if number + 1 < len(self._phases):
            size = self._phases[number + 1].first - start
            sources, draws = sources[:size], draws[:size]
        return Block(start, sources, draws)

    def drawn(self, windows: int) -> Numbers:
        """Return how often each source was drawn in the first windows of the run."""
        if not windows:
            return np.zeros(len(self._phases[0].counts), np.int64)
        phase = [each for each in self._phases if each.first < windows][-1]
        readings, within = divmod(windows - 1 - phase.first, int(phase.ends[-1]))
        place = int(np.searchsorted(phase.ends, within, side="right"))
        full = phase.before + phase.counts * (readings * len(phase.ends) + place) // len(phase.ends)
        block = self.block(windows - 1)
        return full + np.bincount(block.sources[: windows - block.first], minlength=len(full))


def phase_ends(shares: Sequence[float], steps: int) -> list[int]:
    """Return the step after which each phase ends, of so many steps in all."""
    return [round(share * steps) for share in accumulate(shares)]


def _numbers(values: Sequence[int]) -> Numbers:
    return np.array(values, np.int64)


def _range(values: Numbers) -> Numbers:
    return np.arange(len(values), dtype=np.int64)
