"""Attention within documents and within a sliding window."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def document_mask(starts: Tensor, window: int | None = None) -> Tensor | BlockMask:
    """Return the mask in which each token attends to its document, up to itself, or to the last `window` tokens of it.

    `starts` is int64 [rows, tokens]: the index in the row where each token's document starts. On a CPU the mask is
    bool [rows, 1, tokens, tokens], for PyTorch's fused attention. On a GPU it is flex attention's block mask, which
    skips blocks between different documents (Dong et al. 2024).
    """
    (rows, tokens), visible = starts.shape, within_document(starts, window)
    if starts.device.type != "cpu":
        return create_block_mask(visible, rows, None, tokens, tokens, device=starts.device)
    row, place = torch.arange(rows)[:, None, None], torch.arange(tokens)
    return visible(row, row, place[:, None], place)[:, None]


def within_document(starts: Tensor, window: int | None = None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the predicate of a row, a head, a query index and a key index: the query attends to the key."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (key >= starts[row, query])
        return seen if window is None else seen & (key > query - window)

    return visible


def attend_in_blocks(queries: Tensor, keys: Tensor, values: Tensor, mask: BlockMask) -> Tensor:
    """Return attention's output [rows, heads, tokens, head_size]; keys and values may have fewer heads."""
    grouped = keys.shape[1] != queries.shape[1]
    attend: Any = flex_attention if torch.compiler.is_compiling() else _compiled()
    mixed: Tensor = attend(queries, keys, values, block_mask=mask, enable_gqa=grouped)
    return mixed


@cache
def _compiled() -> Callable[..., Tensor]:
    # Uncompiled, flex attention would materialize all scores.
    return torch.compile(flex_attention)
