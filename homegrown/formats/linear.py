"""Linear layers with small weights: how each method packs a float matrix into named tensors and computes with them."""

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from homegrown.errors import UserError
from homegrown.recipe import Variant

Tensors = dict[str, Tensor]


class Method(Protocol):
    """A way to keep a linear layer small.

    `inputs` and `outputs` are what the layer's sizes must be multiples of.
    """

    inputs: int
    outputs: int

    def pack(self, weight: Tensor) -> Tensors:
        """Return the tensors that stand for `weight`, float32 [out, in]; `weight` is always one of the names."""

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """Return the layer that computes with what `pack` returned; it may reorder the tensors while it computes."""


class Int8:
    """LLM.int8() of bitsandbytes (Dettmers et al. 2022): int8 rows, and float16 for columns of inputs beyond 6.

    `weight` int8 [out, in], `scale` float32 [out], the largest magnitude of each row.
    """

    inputs = outputs = 1
    _OUTLIER = 6.0  # section 3.2 of the paper

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        rows, scale, _ = _bitsandbytes().functional.int8_vectorwise_quant(weight.half())
        return {"weight": rows, "scale": scale}

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        bnb = _bitsandbytes()
        layer = bnb.nn.Linear8bitLt(
            shape[1], shape[0], bias is not None, has_fp16_weights=False, threshold=self._OUTLIER, device="meta"
        )
        weight, scale = tensors["weight"], tensors["scale"]
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scale)
        return _with_bias(layer, bias)


class NF4:
    """The 4-bit NormalFloat of QLoRA (Dettmers et al. 2023) in bitsandbytes, in blocks of 64 weights.

    `weight` uint8 [out * in / 2, 1], two codes in a byte, `absmax` float32, one for each block, and `code` float32
    [16], the value of each code as a share of absmax. The scales are not quantized again: measured on a CPU, that
    saves 0.4 bits a weight and costs a sixth of the speed.
    """

    inputs, outputs = 64, 32  # with others, bitsandbytes' CPU kernels can return garbage without an error
    _BLOCK = 64

    def pack(self, weight: Tensor) -> Tensors:
        """See `Method`."""
        packed, state = _bitsandbytes().functional.quantize_4bit(
            weight, blocksize=self._BLOCK, quant_type="nf4", compress_statistics=False
        )
        return {"weight": packed, "absmax": state.absmax, "code": state.code}

    def layer(self, tensors: Tensors, bias: Tensor | None, shape: torch.Size) -> nn.Module:
        """See `Method`."""
        bnb = _bitsandbytes()
        layer = bnb.nn.Linear4bit(
            shape[1], shape[0], bias is not None, quant_type="nf4", compress_statistics=False, device="meta"
        )
        state = bnb.functional.QuantState(
            absmax=tensors["absmax"],
            shape=shape,
            code=tensors["code"],
            blocksize=self._BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
        )
        layer.weight = bnb.nn.Params4bit(
            tensors["weight"],
            quant_state=state,
            blocksize=self._BLOCK,
            compress_statistics=False,
            quant_type="nf4",
            bnb_quantized=True,
            module=layer,
        )
        return _with_bias(layer, bias)


class Int8Dynamic:
    """PyTorch's dynamic quantization: int8 weights with a scale for each row, inputs quantized as they come; CPU only.

    `weight` int8 [out, in], `scale` float64 [out].
    """

    inputs = outputs = 1

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


METHODS: dict[Variant, Method] = {"int8": Int8(), "nf4": NF4(), "int8-dynamic": Int8Dynamic()}


@torch.inference_mode()
def check(variant: Variant, layers: Mapping[str, nn.Linear]) -> None:
    """Try the variant's method on a small matrix, and see that it takes layers of these sizes.

    Raises:
        UserError: this machine cannot compute with it, or a layer's sizes do not fit.
    """
    method = METHODS[variant]
    for name, layer in layers.items():
        if layer.in_features % method.inputs or layer.out_features % method.outputs:
            raise UserError(
                f"{variant} takes layers with inputs in multiples of {method.inputs} and outputs in multiples of "
                f"{method.outputs}, but {name} has {layer.in_features} and {layer.out_features}; change the sizes "
                f"under model or leave {variant} out of quantization.variants."
            )
    matrix = torch.eye(64)
    try:
        works = torch.allclose(method.layer(method.pack(matrix), None, matrix.shape)(matrix), matrix, atol=0.02)
    except (RuntimeError, NotImplementedError, OSError) as error:
        raise UserError(f"This machine cannot compute with {variant} ({error}); {_leave_out(variant)}") from error
    if not works:
        raise UserError(f"This machine computes wrongly with {variant}; {_leave_out(variant)}")


def _leave_out(variant: str) -> str:
    return f"leave {variant} out of quantization.variants."


def _with_bias(layer: nn.Module, bias: Tensor | None) -> nn.Module:
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return layer


def _bitsandbytes() -> ModuleType:
    """Return bitsandbytes, silent and kept off the network; raises UserError where it cannot be imported.

    Where the package `kernels` is installed, importing bitsandbytes would download a kernel from a hub; where it is
    not, bitsandbytes says so. It also says at each product that float32 inputs are rounded to float16.
    """
    if "bitsandbytes" not in sys.modules:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with _without_module("kernels"):
            return import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(
            f"bitsandbytes cannot be imported ({error}); install it, or leave int8 and nf4 out of "
            "quantization.variants."
        ) from error


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


@contextmanager
def _known_to_be_deprecated() -> Iterator[None]:
    """Silence the announcement, in every version since 2.8, that torch.ao.quantization will be removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
