"""Rows of a vocabulary: another number of them, and a layer of which a few rows are trained."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
"""Tensors with a row for each token."""


def with_rows(tensor: Tensor, size: int) -> Tensor:
    """Return a tensor with `size` rows: the first ones; a new one is the mean of all."""
    if size <= len(tensor):
        return tensor[:size]
    return torch.cat([tensor, tensor.mean(0, keepdim=True).expand(size - len(tensor), *tensor.shape[1:])])


class TrainedRows(nn.Module):
    """Wraps a layer with a row for each token; `rows` [tokens, hidden] are the trained rows."""

    def __init__(self, layer: nn.Embedding | nn.Linear, tokens: Sequence[int]):
        """Freeze the layer, and copy its rows of `tokens`."""
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.rows = nn.Parameter(layer.weight.detach()[list(tokens)].float())

    @property
    def weight(self) -> Tensor:
        """All rows [vocabulary, hidden]; gradients reach only the trained ones."""
        frozen = self.layer.weight
        return frozen.index_copy(0, self.get_buffer("tokens"), self.rows.to(frozen.dtype))

    @property
    def bias(self) -> Tensor | None:
        """The bias [vocabulary] of an output projection, or None."""
        return self.layer.bias if isinstance(self.layer, nn.Linear) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the layer would: embeddings [..., hidden] or logits [..., vocabulary]."""
        if isinstance(self.layer, nn.Embedding):
            return F.embedding(inputs, self.weight)
        return F.linear(inputs, self.weight, self.bias)
