"""Weight-only methods of torchao: int8 rows, and int4 groups in an order that depends on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown.quantization.method import Tensors, with_bias
from homegrown.util.quiet import quiet_torchao


class WeightOnlyInt8:
    """Int8 weights with a scale for each row, dequantized to the inputs' type before each product.

    `weight` int8 [out, in], `scale` float32 [out, 1].
    """

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        with quiet_torchao():
            from torchao.quantization import Int8Tensor, PerRow

        packed = Int8Tensor.from_hp(weight, PerRow())
        return {"weight": packed.qdata, "scale": packed.scale}

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        with quiet_torchao():
            from torchao.quantization import Int8Tensor

        weight = Int8Tensor(tensors["weight"], tensors["scale"], [1, shape[1]], torch.float32)
        return with_bias(_linear(weight, shape), bias)


class WeightOnlyInt4:
    """Four bits per weight in groups of 64, each with a scale and a middle, multiplied in bfloat16 ("tinygemm").

    `weight` uint8 [out, in / 2] holds two integers from 0 to 15 per byte, the first in the high half. `scale` and
    `middle` are bfloat16 [out, in / 64]. An integer n means middle + scale * (n - 8). The file does not depend on the
    machine; loading reorders the tensors for its kernels.
    """

    _GROUP = 64

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        with quiet_torchao():
            from torchao.quantization.quant_primitives import (
                MappingType,
                _choose_qparams_affine_tinygemm,
                _quantize_affine_tinygemm,
            )

        group, weight = (1, self._GROUP), weight.bfloat16()
        scale, middle = _choose_qparams_affine_tinygemm(
            weight, MappingType.ASYMMETRIC, group, torch.int32, quant_min=0, quant_max=15, eps=1e-6
        )
        numbers = _quantize_affine_tinygemm(weight, group, scale, middle, torch.int32, quant_min=0, quant_max=15)
        rows = weight.shape[0]
        return {"weight": _pairs(numbers), "scale": scale.reshape(rows, -1), "middle": middle.reshape(rows, -1)}

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        for_device = self._for_cpu if tensors["weight"].device.type == "cpu" else self._for_gpu
        return _InBfloat16(_linear(for_device(tensors, shape), shape), bias)

    def _for_cpu(self, tensors: Tensors, shape: torch.Size) -> Tensor:
        with quiet_torchao():
            from torchao.prototype.quantization.int4.int4_opaque_tensor import Int4OpaqueTensor

        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(_numbers(tensors["weight"]), 1)
        scales = _scales(tensors["scale"], tensors["middle"])
        weight: Tensor = Int4OpaqueTensor(packed, scales, [1, self._GROUP], shape)
        return weight

    def _for_gpu(self, tensors: Tensors, shape: torch.Size) -> Tensor:
        """Return the layout for tensor cores, padded to multiples of 8 rows and 1024 columns."""
        with quiet_torchao():
            from torchao.quantization import Int4TilePackedTo4dTensor

        rows, columns = -shape[0] % 8, -shape[1] % 1024
        pairs = F.pad(tensors["weight"], (0, columns // 2, 0, rows))
        scale, middle = (F.pad(tensors[name], (0, columns // self._GROUP, 0, rows)) for name in ("scale", "middle"))
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)
        weight: Tensor = Int4TilePackedTo4dTensor(packed, _scales(scale, middle), [1, self._GROUP], shape)
        return weight


class _InBfloat16(nn.Module):
    """A layer that computes in bfloat16; the bias is added in the inputs' type."""

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, bias: Tensor | None) -> None:
        super().__init__()
        self.linear = linear
        with_bias(self, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out], of x's type."""
        product: Tensor = self.linear(x.bfloat16()).to(x.dtype)
        return product if self.bias is None else product + self.bias


def _linear(weight: Tensor, shape: torch.Size) -> nn.Linear:
    linear = nn.Linear(shape[1], shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def _pairs(numbers: Tensor) -> Tensor:
    """Pack int32 [out, in] of 0 to 15 as uint8 [out, in / 2]."""
    return (numbers[:, ::2] << 4 | numbers[:, 1::2]).to(torch.uint8)


def _numbers(pairs: Tensor) -> Tensor:
    """Undo `_pairs`."""
    return torch.stack([pairs >> 4, pairs & 15], dim=-1).flatten(1).int()


def _scales(scale: Tensor, middle: Tensor) -> Tensor:
    """Return both in the order of all kernels, bfloat16 [in / group, out, 2]."""
    return torch.stack([scale, middle], dim=-1).transpose(0, 1).contiguous()
