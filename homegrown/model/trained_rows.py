"""An embedding or output projection that is frozen except for the rows of a few tokens."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrainedRows(nn.Module):
    """Wraps a layer with a row for each token; `rows` [tokens, hidden] are the trained rows."""

    def __init__(self, layer: nn.Embedding | nn.Linear, tokens: Sequence[int]):
        """Freeze the layer, and copy its rows of `tokens`."""
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.rows = nn.Parameter(layer.weight.detach()[list(tokens)].clone())

    @property
    def weight(self) -> Tensor:
        """All rows [vocabulary, hidden]; gradients reach only the trained ones."""
        return self.layer.weight.index_copy(0, self.get_buffer("tokens"), self.rows)

    @property
    def bias(self) -> Tensor | None:
        """The bias [vocabulary] of an output projection, or None."""
        return self.layer.bias if isinstance(self.layer, nn.Linear) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the layer would: embeddings [..., hidden] or logits [..., vocabulary]."""
        if isinstance(self.layer, nn.Embedding):
            return F.embedding(inputs, self.weight)
        return F.linear(inputs, self.weight, self.bias)
