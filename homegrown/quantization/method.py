"""The protocol of a quantization method: pack a matrix into named tensors, and compute with them."""

from typing import Protocol

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class Method(Protocol):
    """A way to quantize a linear layer."""

    def pack(self, weight: Tensor) -> Tensors:
        """Return `weight`, float32 [out, in], as named tensors, one of which is called `weight`."""

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """Return a layer that computes with the tensors of `pack` on their device; it may reorder them."""


def with_bias(layer: nn.Module, bias: Tensor | None) -> nn.Module:
    """Set the layer's bias, which may be None, and return the layer."""
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return layer
