"""The KV cache: keys and values of the tokens seen so far, preallocated, with a length for each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from homegrown.model.config import ModelConfig


@dataclass(frozen=True)
class Span:
    """The positions of one forward pass in every sequence; all layers share it.

    `positions` is int64 [batch, new]. `mask` is bool [batch, 1, new, extent], True where a query may attend. It is None
    if the pass is causal from position 0 (`causal`) or if each query attends to the full extent.
    """

    positions: Tensor
    extent: int
    mask: Tensor | None
    causal: bool


class KVCache:
    """Keys and values [layers, rows, kv_heads, capacity, head_size] and the number of tokens kept of each row.

    The token at position p is at index p of its row, so sequences of different lengths share a batch without left
    padding. A pass over ragged rows is padded on the right. Padding is written past the row's length, masked from every
    real query, and overwritten by the row's next tokens.

    Sequences enter and leave between passes without moving the others: `part` returns consecutive rows for a new
    prompt, and `free` moves the last row into a gap.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype):
        shape = (config.layers, batch, config.kv_heads, capacity, config.head_size)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = np.zeros(batch, dtype=np.int64)

    @property
    def capacity(self) -> int:
        """Most tokens of one sequence."""
        return self.keys.shape[3]

    def part(self, start: int, stop: int) -> Self:
        """Return rows `start` to `stop` as a cache that shares this one's memory and lengths."""
        part = object.__new__(type(self))
        part.keys, part.values = self.keys[:, start:stop], self.values[:, start:stop]
        part.lengths = self.lengths[start:stop]
        return part

    def span(self, new: int, window: int | None = None) -> Span:
        """Return the span of the next `new` tokens of every row, for layers with this sliding window.

        Raises ValueError if they exceed the capacity.
        """
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        extent = longest + new
        if extent > self.capacity:
            raise ValueError(f"{extent} tokens do not fit a cache of {self.capacity}")
        device = self.keys.device
        positions = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(new, device=device)
        causal = new > 1 and extent == new
        windowed = window is not None and extent > window
        if not windowed and (causal or (new == 1 and shortest == longest)):
            return Span(positions, extent, None, causal)
        keys, queries = torch.arange(extent, device=device), positions[:, None, :, None]
        mask = keys <= queries
        if window is not None:
            mask &= keys > queries - window
        return Span(positions, extent, mask, False)

    def write(self, layer: int, span: Span, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [batch, kv_heads, new, head_size] at the span's positions; return all keys and values of the layer."""
        kept_keys, kept_values = self.keys[layer], self.values[layer]
        if span.mask is None:
            start = span.extent - keys.shape[2]
            kept_keys[:, :, start : span.extent] = keys
            kept_values[:, :, start : span.extent] = values
        else:
            index = span.positions[:, None, :, None].expand_as(keys)
            kept_keys.scatter_(2, index, keys.to(kept_keys.dtype))
            kept_values.scatter_(2, index, values.to(kept_values.dtype))
        return kept_keys[:, :, : span.extent], kept_values[:, :, : span.extent]

    def advance(self, counts: Sequence[int]) -> None:
        """Add the pass's real tokens, `counts[row]` for each row, to the lengths."""
        self.lengths += np.array(counts, dtype=np.int64)

    def free(self, row: int, last: int) -> None:
        """Move row `last`, the last in use, to `row`, whose sequence has ended."""
        if row != last:
            length = self.lengths[last]
            for kept in (self.keys, self.values):
                kept[:, row, :, :length] = kept[:, last, :, :length]
        self.lengths[row], self.lengths[last] = self.lengths[last], 0

    def reorder(self, rows: Tensor) -> None:
        """Copy row `rows[i]` (int64 [batch]) to row i, as beam search needs."""
        longest = int(self.lengths.max())
        for kept in (self.keys, self.values):
            kept[:, :, :, :longest] = kept[:, rows, :, :longest]
        self.lengths[:] = self.lengths[rows.cpu().numpy()]
