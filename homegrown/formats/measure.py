"""What a variant does: how fast it writes, and what held-out text costs it."""

import math
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from homegrown.errors import UserError
from homegrown.model.generation import generate
from homegrown.model.transformer import Transformer
from homegrown.tokens.loader import TokenSplit
from homegrown.tokens.rows import NO_TARGET, parts

_BATCH_TOKENS = 4096
_RUNS = 3
_WRITTEN = 48


@torch.inference_mode()
def bits_per_byte(model: Transformer, split: TokenSplit, token_bytes: npt.NDArray[np.int32], most_tokens: int) -> float:
    """Return the bits that a byte of text costs, over windows of the model's context taken evenly from a split.

    They lie side by side, each begun without what was before it, so that all variants are compared on the same tokens
    in one pass; the stage `evaluate` measures what a person should quote.

    Raises:
        UserError: the split is empty.
    """
    context = split.fitting(model.config.context)
    windows = split.windows(context)
    if not windows:
        raise UserError("The validation split holds no text; add text or raise shard.validation_share.")
    chosen = np.linspace(0, windows - 1, min(windows, math.ceil(most_tokens / context))).round().astype(np.int64)
    rows = max(1, _BATCH_TOKENS // context)
    nats, size = 0.0, 0
    for start in range(0, len(chosen), rows):
        batch = split.read(chosen[start : start + rows], context)
        nats += model.loss(*parts(torch.from_numpy(batch).to(model.device))).item()
        _, targets, _ = parts(batch)
        size += int(token_bytes[targets[targets != NO_TARGET]].sum())
    return nats / math.log(2) / size


def tokens_per_second(model: Transformer, prompt: Sequence[int]) -> float:
    """Return how fast one sequence is written after `prompt`, its reading included: the fastest of some runs.

    A run before them lets layers reorder their weights.
    """
    generate(model, [prompt], max_new_tokens=2)
    return max(_speed(model, prompt) for _ in range(_RUNS))


def _speed(model: Transformer, prompt: Sequence[int]) -> float:
    start = time.perf_counter()
    (written,) = generate(model, [prompt], max_new_tokens=_WRITTEN)
    return len(written) / (time.perf_counter() - start)
