"""What a method of quantization is: how it packs a matrix into named tensors, and computes with them."""

from typing import Protocol

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class Method(Protocol):
    """A way to keep a linear layer small."""

    def pack(self, weight: Tensor) -> Tensors:
        """Return the tensors that stand for `weight`, float32 [out, in]; `weight` is always one of the names."""

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """Return the layer that computes, where the tensors are, with what `pack` returned; it may reorder them."""


def with_bias(layer: nn.Module, bias: Tensor | None) -> nn.Module:
    """Give the layer its bias, or none."""
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return layer
