"""PyTorch's dynamic quantization to int8."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from homegrown.quantization.method import Tensors


class Int8Dynamic:
    """Int8 weights with a scale for each row; inputs are quantized at run time. It has CPU kernels only.

    `weight` int8 [out, in], `scale` float64 [out].
    """

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight)
        with _known_to_be_deprecated():
            quantized = quantize_dynamic(  # type: ignore[no-untyped-call]
                nn.Sequential(linear), {nn.Linear: per_channel_dynamic_qconfig}
            )
        rows: Tensor = quantized[0].weight()
        return {"weight": rows.int_repr(), "scale": rows.q_per_channel_scales()}

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        from torch.ao.nn.quantized.dynamic import Linear

        with _known_to_be_deprecated():
            layer = Linear(shape[1], shape[0], bias_=bias is not None, dtype=torch.qint8)  # type: ignore[no-untyped-call]
            zeros = torch.zeros(shape[0], dtype=torch.int64)
            rows = torch._make_per_channel_quantized_tensor(tensors["weight"], tensors["scale"], zeros, 0)
        layer.set_weight_bias(rows, bias)
        return layer


@contextmanager
def _known_to_be_deprecated() -> Iterator[None]:
    """Silence the deprecation warning of torch.ao.quantization, which versions since 2.8 print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
