"""Several LoRA adapters on one model, chosen for each row of a batch; the rows share the model's weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown.model import lora
from homegrown.model.lora import Update
from homegrown.model.transformer import Transformer

PROJECTIONS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""A layer's projections, in the order of `Adapters.addresses`."""


class AdaptedLinear(nn.Module):
    """A projection with the updates of several adapters, of which each row of a batch uses one or none."""

    def __init__(self, layer: nn.Module, updates: Sequence[tuple[Tensor, Tensor] | None], rows: list[int]):
        """Wrap `layer`; `rows`, which others change, has the adapter of each row, or -1."""
        super().__init__()
        self.base_layer = layer
        self._updates, self._rows = updates, rows

    def forward(self, x: Tensor) -> Tensor:
        """Return the projection [batch, tokens, out] of x [batch, tokens, in]."""
        projected: Tensor = self.base_layer(x)
        for adapter in set(self._rows) - {-1}:
            update = self._updates[adapter]
            if update is not None:
                of_it = [row for row, one in enumerate(self._rows) if one == adapter]
                low = F.linear(x[of_it].float(), update[0])
                projected[of_it] += F.linear(low, update[1]).to(projected.dtype)
        return projected


class Adapters:
    """Adapters by name, put on a model; without any, the model is left as it is.

    Rows of the vocabulary that an adapter trained are added behind the model's: `embedded` names the tokens by them,
    and `chosen` takes their logits.
    """

    addresses: npt.NDArray[np.int64]
    """Of A and B in float32, [adapters, layers, projections, 2]; 0 where an adapter has no update."""
    ranks: npt.NDArray[np.int64]

    def __init__(self, model: Transformer, folders: Mapping[str, Path]):
        """Read the adapters of folders.

        Raises:
            UserError: one is missing or damaged, belongs to another model, or trained the embedding completely.
        """
        self._names = {name: place for place, name in enumerate(folders)}
        self.rows: list[int] = []
        """The adapter of each row of the next pass, or -1."""
        updates = [_on(model.device, lora.read(folder, model)) for folder in folders.values()]
        self._moved, size = [], model.config.vocabulary_size
        for update in updates:
            self._moved.append({token: size + place for place, token in enumerate(update.tokens)})
            size += len(update.tokens)
        _add_rows(model, updates)
        layers = [f"model.layers.{layer}." for layer in range(model.config.layers)]
        self.addresses = np.zeros((len(updates), len(layers), len(PROJECTIONS), 2), dtype=np.int64)
        self.ranks = np.zeros(len(updates), dtype=np.int64)
        for index, layer in enumerate(layers):
            for place, projection in enumerate(PROJECTIONS):
                found = [update.matrices.get(f"{layer}{projection}") for update in updates]
                for adapter, matrices in enumerate(found):
                    if matrices is not None:
                        self.addresses[adapter, index, place] = [tensor.data_ptr() for tensor in matrices]
                        self.ranks[adapter] = len(matrices[0])
                if any(matrices is not None for matrices in found):
                    name = f"{layer}{projection}"
                    model.set_submodule(name, AdaptedLinear(model.get_submodule(name), found, self.rows))

    def use(self, names: Sequence[str | None]) -> None:
        """Choose the adapter of each row of the next pass; None is the model itself."""
        if self._names:
            self.rows[:] = [-1 if name is None else self._names[name] for name in names]

    def embedded(self, tokens: Sequence[int], name: str | None) -> Sequence[int]:
        """Return the tokens of a row as the next pass reads them."""
        moved = {} if name is None else self._moved[self._names[name]]
        return [moved.get(token, token) for token in tokens] if moved else tokens

    def chosen(self, logits: Tensor, names: Sequence[str | None], vocabulary_size: int) -> Tensor:
        """Return logits [rows, vocabulary] of those [rows, vocabulary and added rows] that a pass returned."""
        for row, name in enumerate(names):
            moved = {} if name is None else self._moved[self._names[name]]
            if moved:
                logits[row, list(moved)] = logits[row, list(moved.values())]
        return logits[:, :vocabulary_size]


def _on(device: torch.device, update: Update) -> Update:
    matrices = {name: (down.to(device), up.to(device)) for name, (down, up) in update.matrices.items()}
    return replace(update, matrices=matrices)


@torch.no_grad()
def _add_rows(model: Transformer, updates: Sequence[Update]) -> None:
    """Add the adapters' rows to the embedding, and to the output projection and its bias."""
    for name in ("model.embed_tokens", "lm_head"):
        rows = [update.rows[name] for update in updates if name in update.rows]
        if not rows:
            continue
        layer = model.get_submodule(name)
        weight, bias = layer.get_parameter("weight"), dict(layer.named_parameters()).get("bias")
        added = torch.cat(rows).to(weight)
        layer.weight = nn.Parameter(torch.cat([weight, added]), requires_grad=False)
        if bias is not None:
            of_tokens = bias[[token for update in updates for token in update.tokens]]
            layer.bias = nn.Parameter(torch.cat([bias, of_tokens]), requires_grad=False)
