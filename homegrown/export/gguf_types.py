"""Kinds of GGUF files: the type of each tensor, and the conversion to it."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf import GGMLQuantizationType as Type
from gguf.quants import quant_shape_to_byte_shape
from gguf.quants import quantize as quantize_in_numpy

from homegrown.export.gguf_layout import OUTPUT, TOKEN_EMBEDDING
from homegrown.model.config import ModelConfig
from homegrown.util.errors import UserError

FROM_LLAMA_CPP = frozenset({Type.Q4_K, Type.Q5_K, Type.Q6_K})
"""Types that only llama.cpp's quantizer makes, not the `gguf` package."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its type in the header, and the types of its matrices.

    `output` is the type of the output projection, which may be the embedding. `important` is the type of the matrices
    that llama.cpp's M mixtures keep finer in some layers.
    """

    file_type: LlamaFileType
    usual: Type
    output: Type
    important: Type | None = None


# llama.cpp's mixtures, except that the output of q4_0 is q8_0 instead of q6_K, which numpy cannot make.
_KINDS = {
    "f32": Kind(LlamaFileType.ALL_F32, Type.F32, Type.F32),
    "f16": Kind(LlamaFileType.MOSTLY_F16, Type.F16, Type.F16),
    "bf16": Kind(LlamaFileType.MOSTLY_BF16, Type.BF16, Type.BF16),
    "q8_0": Kind(LlamaFileType.MOSTLY_Q8_0, Type.Q8_0, Type.Q8_0),
    "q4_0": Kind(LlamaFileType.MOSTLY_Q4_0, Type.Q4_0, Type.Q8_0),
    "q4_k_m": Kind(LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K, Type.Q6_K, Type.Q6_K),
    "q5_k_m": Kind(LlamaFileType.MOSTLY_Q5_K_M, Type.Q5_K, Type.Q6_K, Type.Q6_K),
    "q6_k": Kind(LlamaFileType.MOSTLY_Q6_K, Type.Q6_K, Type.Q6_K),
}

KINDS = tuple(_KINDS)
"""The kinds of files, by llama.cpp's names."""

# llama.cpp's replacements if a row is not a multiple of 256, the block of K-quants. Their blocks have 32 numbers, and
# the rows of all models are multiples of 32.
_SMALLER_BLOCKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}


def kind_named(name: str) -> Kind:
    """Return a kind by its name; raises UserError if it is unknown or its library is not installed."""
    if name not in _KINDS:
        raise UserError(f"{name} is not a kind of GGUF file; choose one of {', '.join(KINDS)}.")
    kind = _KINDS[name]
    if kind.usual in FROM_LLAMA_CPP:
        check_llama_cpp(name)
    return kind


def wanted_type(kind: Kind, tensor: str, dimensions: int, config: ModelConfig) -> Type:
    """Return the type of the tensor with this GGUF name in a file of this kind, before `fitting_type`.

    Gains stay float32. In the M mixtures, `attn_v` and `ffn_down` are finer in the first and last eighth of the layers
    and in every third between (llama.cpp, src/llama-quant.cpp, `use_more_bits`).
    """
    if dimensions < 2:
        return Type.F32
    if tensor == (TOKEN_EMBEDDING if config.tied else OUTPUT):
        return kind.output
    part = tensor.removesuffix(".weight").rpartition(".")[2]
    if kind.important is not None and part in ("attn_v", "ffn_down"):
        layer, eighth = int(tensor.split(".")[1]), config.layers // 8
        if layer < eighth or layer >= 7 * config.layers // 8 or (layer - eighth) % 3 == 2:
            return kind.important
    return kind.usual


def fitting_type(wanted: Type, columns: int) -> Type:
    """Return the type, or llama.cpp's replacement if `columns` do not fill its blocks."""
    return _SMALLER_BLOCKS.get(wanted, wanted) if columns % GGML_QUANT_SIZES[wanted][0] else wanted


def stored_shape(shape: Sequence[int], to: Type) -> tuple[int, ...]:
    """Return the shape of the result of `quantize` for an array of `shape`."""
    return tuple(shape) if to in (Type.F32, Type.F16) else quant_shape_to_byte_shape(shape, to)


def stored_dtype(to: Type) -> "np.dtype[np.generic]":
    """Return the dtype of the result of `quantize`."""
    return np.dtype({Type.F32: np.float32, Type.F16: np.float16}.get(to, np.uint8))


def quantize(values: npt.NDArray[np.float32], to: Type) -> npt.NDArray[np.generic]:
    """Return float32 values in the type: float32 or float16 of the same shape, or blocks, uint8 [..., bytes].

    Raises OverflowError if a value exceeds float16.
    """
    if to in FROM_LLAMA_CPP:
        return quantize_with_llama_cpp(values, to)
    if to == Type.F16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise OverflowError("a value exceeds float16")
    stored: npt.NDArray[np.generic] = quantize_in_numpy(values, to)
    return stored


_NEEDS = "needs llama.cpp's quantizer"


def check_llama_cpp(kind: str) -> None:
    """Load llama.cpp's quantizer, for a file of `kind`.

    Raises:
        UserError: xllamacpp is not installed, or its library does not export the quantizer.
    """
    try:
        _library()
    except ImportError as error:
        raise UserError(
            f"{kind} {_NEEDS}, which is not installed; pip install 'homegrown[llama-cpp]', or choose q8_0 or q4_0."
        ) from error
    except (OSError, AttributeError) as error:
        raise UserError(
            f"{kind} {_NEEDS}, which the installed xllamacpp does not export ({error}); choose q8_0 or q4_0."
        ) from error


def quantize_with_llama_cpp(rows: npt.NDArray[np.float32], to: GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """Return float32 `rows` [rows, columns] as blocks of the type, uint8 [rows, bytes], without an importance matrix.

    Raises ValueError if the columns are not a multiple of the type's block.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    out = np.empty(quant_shape_to_byte_shape(rows.shape, to), dtype=np.uint8)
    written = _library().ggml_quantize_chunk(
        int(to), rows.ctypes.data, out.ctypes.data, 0, rows.shape[0], rows.shape[1], None
    )
    if written != out.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes of {to.name} where {out.nbytes} were expected")
    return out


@cache
def _library() -> ctypes.CDLL:
    """Return xllamacpp's library with the quantizer's signature declared (ggml.h)."""
    library = ctypes.CDLL(str(import_module("xllamacpp.xllamacpp").__file__))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # source, float32
        ctypes.c_void_p,  # destination
        ctypes.c_int64,  # the first number to quantize_with_llama_cpp
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # numbers in a row
        ctypes.c_void_p,  # importance matrix
    ]
    return library
