"""Memory of a loaded model: all its tensors, including those inside libraries' own layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from homegrown.model.transformer import Transformer


def loaded_megabytes(model: Transformer) -> float:
    """Return the memory of all tensors reachable from a model, each counted once, in megabytes (10^6 bytes).

    It includes weights, scales, codes and the position table, but not activations or Python objects.
    """
    reached: dict[int, Any] = {}
    tensors = list(_tensors(model, reached))  # all alive at once, so equal addresses mean the same memory
    return sum({(tensor.data_ptr(), tensor.nbytes): tensor.nbytes for tensor in tensors}.values()) / 1e6


def _tensors(thing: Any, reached: dict[int, Any]) -> Iterator[Tensor]:
    if id(thing) in reached:
        return
    reached[id(thing)] = thing
    parts: list[Any] = []
    if isinstance(thing, Tensor):
        if hasattr(thing, "__tensor_flatten__"):  # torchao's consist of others
            parts = [getattr(thing, name) for name in thing.__tensor_flatten__()[0]]
        elif thing.device.type != "meta":
            yield thing
        parts += vars(thing).values()  # bitsandbytes' hold their scales as attributes
    elif isinstance(thing, Mapping):
        parts += thing.values()
    elif isinstance(getattr(thing, "_packed_params", None), torch.ScriptObject):  # PyTorch's int8
        weight, bias = thing._weight_bias()
        parts += [weight, weight.q_per_channel_scales(), bias]
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("bitsandbytes"):
        parts += vars(thing).values()
    for part in parts:
        yield from _tensors(part, reached)
