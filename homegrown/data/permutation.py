"""A seeded permutation of 0 … size - 1 in constant memory: a Feistel network with cycle walking."""

import numpy as np
import numpy.typing as npt

from homegrown.util.seeds import derive

_ROUNDS = 6
_MULTIPLIERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # MurmurHash3's 64-bit finalizer
_SHIFT = np.uint64(33)


class Permutation:
    """Position → index, each index exactly once.

    A Feistel network permutes the smallest power of four not below `size`; an index beyond `size` is permuted again
    until it is inside, fewer than four times on average (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains"). The result does not depend on the version of NumPy, unlike that of `numpy.random`.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        half_bits = max(1, -(-(size - 1).bit_length() // 2))
        self._half_bits = np.uint64(half_bits)
        self._mask = np.uint64(2**half_bits - 1)
        self._keys = [np.uint64(derive(seed, "round", number)) for number in range(_ROUNDS)]

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the indices (int64) at `positions`, each in 0 … size - 1."""
        values = self._network(positions.astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    for multiplier in _MULTIPLIERS:
        values = (values ^ (values >> _SHIFT)) * multiplier
    return values ^ (values >> _SHIFT)
