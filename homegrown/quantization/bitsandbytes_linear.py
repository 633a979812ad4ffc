"""The methods of bitsandbytes: LLM.int8(), and NormalFloat and float of four bits."""

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
    """LLM.int8() (Dettmers et al. 2022): int8 rows, and float16 for columns of inputs beyond 6.

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
    """Four bits a weight in blocks of 64, each with a scale: NF4 (QLoRA, Dettmers et al. 2023) or FP4.

    `weight` uint8 [out * in / 2, 1], two codes in a byte, the first in the high half; `code` float32 [16], the value of
    each code as a share of its block's largest magnitude; `absmax` float32 [blocks], these magnitudes: 4.5 bits a
    weight.

    Double quantization (section 3 of the paper) keeps the magnitudes in 8 bits: `absmax` uint8 [blocks], `offset`
    float32 [1], their mean, and `scales` float32 [blocks / 256], the largest distance from it in 256 of them; the
    values of the 256 codes are bitsandbytes' dynamic map (Dettmers et al. 2021, section 2.2), the same everywhere.
    That is 4.13 bits a weight.
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
    """Return bitsandbytes, silent and kept off the network.

    Where the package `kernels` is installed, importing bitsandbytes would download a kernel from a hub; where it is
    not, bitsandbytes says so. It also says at each product that float32 inputs are rounded to float16.
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
