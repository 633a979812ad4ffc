"""Costs of a model's predictions of held-out tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from homegrown.evaluation.costs import Costs, by_document
from homegrown.evaluation.windows import Numbers, Windows, slide
from homegrown.model.loss import chunk_tokens
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.loading import token_bytes

_BATCH_TOKENS = 4096


class Text(Protocol):
    """Tokens to predict: a split of a packed corpus, or a text in memory."""

    def read_at(self, starts: list[int], length: int) -> Numbers:
        """Return `length` tokens from each of `starts` on, as int64 [len(starts), length]."""


@dataclass(frozen=True)
class _InMemory:
    """Tokens of a text in memory, int64 [tokens]."""

    tokens: Numbers

    def read_at(self, starts: list[int], length: int) -> Numbers:
        """Return `length` tokens from each of `starts` on, as int64 [len(starts), length]."""
        return np.stack([self.tokens[start : start + length] for start in starts])


@dataclass(frozen=True)
class ShortTexts:
    """Texts in memory as the tokens of one model."""

    _text: Text
    _starts: Numbers
    _windows: Windows
    _sizes: Numbers

    @classmethod
    def of(cls, tokenizer: Tokenizer, parts: Sequence[Numbers], context: int, stride: int) -> "ShortTexts":
        """Return texts of these tokens, int64 [tokens] each, for a model that reads `context` of them."""
        lengths = np.array([len(tokens) for tokens in parts])
        text, starts = np.concatenate(parts), np.cumsum(lengths) - lengths
        windows = slide(starts, lengths, context, stride)
        return cls(_InMemory(text), starts, windows, token_bytes(tokenizer)[text[windows.targets]].astype(np.int64))

    def costs(self, model: Transformer) -> Costs:
        """Return the costs of a model's predictions, by text."""
        return by_document(predict(model, self._text, self._windows), self._windows.targets, self._sizes, self._starts)


@torch.inference_mode()
def predict(model: Transformer, text: Text, windows: Windows) -> npt.NDArray[np.float64]:
    """Return -log p of each target of the windows, in nats, float64 [targets], in the order of `windows.targets`.

    Windows of similar length are computed together. The shorter ones are padded on the right, after all targets, so
    nothing attends to the padding.
    """
    costs = np.empty(int(windows.counted.sum()))
    firsts = np.cumsum(windows.counted) - windows.counted
    order = np.argsort(-windows.inputs, kind="stable")
    place = 0
    while place < len(order):
        rows = max(1, _BATCH_TOKENS // int(windows.inputs[order[place]]))
        batch = order[place : place + rows]
        found = _batch(model, text, windows.take(batch))
        for first, row in zip(firsts[batch], np.split(found, np.cumsum(windows.counted[batch])[:-1]), strict=True):
            costs[first : first + len(row)] = row
        place += rows
    return costs


def _batch(model: Transformer, text: Text, windows: Windows) -> npt.NDArray[np.float32]:
    """Return the costs of the targets of some windows, the longest first, float32 [targets]."""
    longest = int(windows.inputs[0])
    tokens = np.zeros((len(windows.starts), longest + 1), dtype=np.int64)
    for row, start, inputs in zip(tokens, windows.starts.tolist(), windows.inputs.tolist(), strict=True):
        row[: inputs + 1] = text.read_at([start], inputs + 1)[0]
    places, ends = np.arange(longest), windows.inputs[:, None]
    counted = torch.from_numpy((places >= ends - windows.counted[:, None]) & (places < ends)).to(model.device)
    given = torch.from_numpy(tokens).to(model.device)
    hidden = model.hidden_states(given[:, :-1])[counted]
    targets = given[:, 1:][counted]
    rows = chunk_tokens(model.device.type)
    costs = [
        F.cross_entropy(model.logits(part).float(), expected, reduction="none")
        for part, expected in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.cat(costs).cpu().numpy()
