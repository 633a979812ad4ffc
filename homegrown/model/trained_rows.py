"""An embedding or output projection of which a few tokens' rows are trained, while all others stay as they are."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrainedRows(nn.Module):
    """Stands in for a layer with a row for each token; `rows` [tokens, hidden] are the trained ones."""

    def __init__(self, layer: nn.Embedding | nn.Linear, tokens: Sequence[int]):
        """Freeze the layer, and begin with its own rows of `tokens`."""
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.rows = nn.Parameter(layer.weight.detach()[list(tokens)].clone())

    @property
    def weight(self) -> Tensor:
        """All rows [vocabulary, hidden]; gradients reach the trained ones only."""
        return self.layer.weight.index_copy(0, self.get_buffer("tokens"), self.rows)

    @property
    def bias(self) -> Tensor | None:
        """The bias of an output projection that has one."""
        return self.layer.bias if isinstance(self.layer, nn.Linear) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Look up tokens, or project hidden states, as the layer does."""
        if isinstance(self.layer, nn.Embedding):
            return F.embedding(inputs, self.weight)
        return F.linear(inputs, self.weight, self.bias)
