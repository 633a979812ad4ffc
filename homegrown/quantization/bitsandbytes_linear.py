"""Methods of bitsandbytes: LLM.int8(), and 4-bit NormalFloat and float."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from homegrown.quantization.method import Tensors, with_bias


class Int8:
    """LLM.int8() (Dettmers et al. 2022): int8 rows, and float16 for input columns with outliers beyond 6.

    `weight` int8 [out, in], `scale` float32 [out], the largest magnitude of each row.
    """

    _OUTLIER = 6.0  # section 3.2 of the paper

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        rows, scale, _ = _bitsandbytes().functional.int8_vectorwise_quant(weight.half())
        return {"weight": rows, "scale": scale}

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        bnb = _bitsandbytes()
        layer: nn.Module = bnb.nn.Linear8bitLt(
            shape[1], shape[0], bias is not None, has_fp16_weights=False, threshold=self._OUTLIER, device="meta"
        )
        weight, scale = tensors["weight"], tensors["scale"]
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scale)
        return with_bias(layer, bias)


class FourBit:
    """Four bits per weight in blocks of 64, each with a scale: NF4 (QLoRA, Dettmers et al. 2023) or FP4.

    `weight` uint8 [out * in / 2, 1] holds two codes per byte, the first in the high half. `code` float32 [16] is the
    value of each code relative to its block's largest magnitude, and `absmax` float32 [blocks] is that magnitude. This
    takes 4.5 bits per weight.

    Double quantization (section 3 of the paper) stores the magnitudes in 8 bits: `absmax` uint8 [blocks], `offset`
    float32 [1], their mean, and `scales` float32 [blocks / 256], the largest distance from it in each group of 256. The
    values of the 256 codes are bitsandbytes' constant dynamic map (Dettmers et al. 2021, section 2.2). This takes 4.13
    bits per weight.
    """

    _BLOCK, _SCALES_BLOCK = 64, 256

    def __init__(self, kind: Literal["nf4", "fp4"], double: bool) -> None:
        self._kind, self._double = kind, double

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        packed, state = _bitsandbytes().functional.quantize_4bit(
            weight, blocksize=self._BLOCK, quant_type=self._kind, compress_statistics=self._double
        )
        tensors = {"weight": packed, "code": state.code, "absmax": state.absmax}
        if self._double:
            tensors |= {"offset": state.offset.reshape(1), "scales": state.state2.absmax}
        return tensors

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        bnb = _bitsandbytes()
        layer: nn.Module = bnb.nn.Linear4bit(
            shape[1],
            shape[0],
            bias is not None,
            quant_type=self._kind,
            compress_statistics=self._double,
            device="meta",
        )
        state = bnb.functional.QuantState(
            absmax=tensors["absmax"],
            shape=shape,
            code=tensors["code"],
            blocksize=self._BLOCK,
            quant_type=self._kind,
            dtype=torch.float32,
            offset=tensors["offset"][0] if self._double else None,
            state2=self._scales(tensors["scales"]) if self._double else None,
        )
        layer.weight = bnb.nn.Params4bit(
            tensors["weight"],
            quant_state=state,
            blocksize=self._BLOCK,
            compress_statistics=self._double,
            quant_type=self._kind,
            bnb_quantized=True,
            module=layer,
        )
        return with_bias(layer, bias)

    def _scales(self, largest: Tensor) -> object:
        functional = _bitsandbytes().functional
        code = functional.create_dynamic_map().to(largest.device)
        return functional.QuantState(absmax=largest, code=code, blocksize=self._SCALES_BLOCK, dtype=torch.float32)


def _bitsandbytes() -> ModuleType:
    """Return bitsandbytes, without log messages and network access.

    If the package `kernels` is installed, importing bitsandbytes downloads a kernel from a hub; otherwise it logs a
    message. It also logs at each product that float32 inputs are rounded to float16.
    """
    if "bitsandbytes" not in sys.modules:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _without_module("kernels"):
        return import_module("bitsandbytes")


@contextmanager
def _without_module(name: str) -> Iterator[None]:
    """Make `import name` fail."""
    missing = object()
    before = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not missing:
            sys.modules[name] = before  # type: ignore[assignment]
