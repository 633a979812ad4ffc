"""Keys and values of the beginnings of prompts, kept for prompts that begin with the same tokens.

A prompt is prefilled in chunks, and complete chunks are kept. A later prompt takes those that it shares and computes
the rest in the same chunks as it would alone, so its output is the same to the last bit.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import sha256

import numpy as np
from torch import Tensor

from homegrown.model.cache import KVCache


class Prefixes:
    """The most recently used chunks, up to a number of bytes."""

    def __init__(self, chunk: int, most_bytes: int):
        """Keep chunks of `chunk` tokens."""
        self._chunk, self._most_bytes, self._bytes = chunk, most_bytes, 0
        self._kept: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    def restore(self, tokens: Sequence[int], row: KVCache, adapter: str | None = None) -> int:
        """Put the chunks that begin a prompt into an empty row; return the number of tokens, less than the prompt's.

        Only prompts of the same `adapter` share them.
        """
        found = []
        for key in self._keys(tokens[:-1], adapter):
            if key not in self._kept:
                break
            found.append(key)
        for place, key in enumerate(found):
            start, end = place * self._chunk, (place + 1) * self._chunk
            row.keys[:, 0, :, start:end], row.values[:, 0, :, start:end] = self._kept[key]
        # The later chunks of a prompt are useless without the earlier ones, so they are dropped first.
        for key in reversed(found):
            self._kept.move_to_end(key)
        row.lengths[0] = len(found) * self._chunk
        return len(found) * self._chunk

    def keep(self, tokens: Sequence[int], row: KVCache, adapter: str | None = None) -> None:
        """Keep the last chunk of the first tokens of a prompt, all of which are in a row, if it is complete."""
        if len(tokens) % self._chunk:
            return
        *_, key = self._keys(tokens, adapter)
        if key in self._kept:
            return
        start, end = len(tokens) - self._chunk, len(tokens)
        keys, values = row.keys[:, 0, :, start:end].clone(), row.values[:, 0, :, start:end].clone()
        self._kept[key] = keys, values
        self._bytes += keys.nbytes + values.nbytes
        while self._bytes > self._most_bytes:
            _, (keys, values) = self._kept.popitem(last=False)
            self._bytes -= keys.nbytes + values.nbytes

    def _keys(self, tokens: Sequence[int], adapter: str | None) -> Iterator[bytes]:
        """Yield a key for each complete chunk, of the adapter and all tokens up to its end."""
        digest = sha256((adapter or "").encode())
        ids = np.array(tokens, dtype=np.int64)
        for end in range(self._chunk, len(ids) + 1, self._chunk):
            digest.update(ids[end - self._chunk : end].tobytes())
            yield digest.digest()
