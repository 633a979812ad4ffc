"""What a loaded model really holds: all its tensors, those too that libraries keep inside their own kinds of layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from homegrown.model.transformer import Transformer


def loaded_megabytes(model: Transformer) -> float:
    """Return the memory of all tensors that can be reached from a model, in megabytes (10^6 bytes), each once.

    Weights, scales, codes, and the table of positions; not what a forward pass needs besides, nor Python itself.
    """
    reached: dict[int, Any] = {}
    tensors = list(_tensors(model, reached))  # all alive at once: no two have the same address unless they are the same
    return sum({(tensor.data_ptr(), tensor.nbytes): tensor.nbytes for tensor in tensors}.values()) / 1e6


def _tensors(thing: Any, reached: dict[int, Any]) -> Iterator[Tensor]:
    if id(thing) in reached:
        return
    reached[id(thing)] = thing
    parts: list[Any] = []
    if isinstance(thing, Tensor):
        if hasattr(thing, "__tensor_flatten__"):  # torchao's are made of others
            parts = [getattr(thing, name) for name in thing.__tensor_flatten__()[0]]
        elif thing.device.type != "meta":
            yield thing
        parts += vars(thing).values()  # bitsandbytes' carry their scales with them
    elif isinstance(thing, Mapping):
        parts += thing.values()
    elif isinstance(getattr(thing, "_packed_params", None), torch.ScriptObject):  # PyTorch's int8
        weight, bias = thing._weight_bias()
        parts += [weight, weight.q_per_channel_scales(), bias]
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("bitsandbytes"):
        parts += vars(thing).values()
    for part in parts:
        yield from _tensors(part, reached)
