"""How well a model predicts held-out text: perplexity, and bits per byte."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from homegrown.errors import UserError
from homegrown.model.transformer import Transformer
from homegrown.tokens.loader import TokenSplit
from homegrown.tokens.rows import NO_TARGET, parts

_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Perplexity:
    """Total cost in nats of `tokens` predicted tokens that stand for `bytes` bytes of UTF-8 text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp of the mean cost of a token; comparable only between models with the same tokenizer."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode a byte of text; comparable whatever the tokenizer.

        Every predicted token's cost counts, those of the starts and ends of documents too, which add no bytes.
        """
        return self.nats / math.log(2) / self.bytes


@torch.inference_mode()
def measure_perplexity(
    model: Transformer, split: TokenSplit, token_bytes: npt.NDArray[np.int32], most_tokens: int
) -> Perplexity:
    """Predict every token of windows of the model's context, side by side, or of rows, taken evenly from the split.

    Each window starts without knowledge of the text before it (stride = context), so tokens near its start cost more
    than they would in a sliding window: the figure is an upper bound, and needs one pass.

    Raises:
        UserError: the split is shorter than one window.
    """
    context = model.config.context
    windows = split.windows(context)
    if not windows:
        raise UserError(
            f"The test split has {split.tokens} tokens, fewer than one window of model.context ({context}) + 1; "
            "add text, raise shard.test_share or lower model.context."
        )
    chosen = np.linspace(0, windows - 1, min(windows, math.ceil(most_tokens / context))).round().astype(np.int64)
    rows = max(1, _BATCH_TOKENS // context)
    nats, tokens, size = 0.0, 0, 0
    for start in range(0, len(chosen), rows):
        batch = split.read(chosen[start : start + rows], context)
        inputs = torch.from_numpy(batch).to(model.device)
        nats += model.loss(*parts(inputs)).item()
        _, targets, _ = parts(batch)
        predicted = targets[targets != NO_TARGET]
        tokens += len(predicted)
        size += int(token_bytes[predicted].sum())
    return Perplexity(nats, tokens, size)
