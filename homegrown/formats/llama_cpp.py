"""llama.cpp's own quantizer, out of the library inside the wheel `xllamacpp`."""

import ctypes
from functools import cache
from importlib import import_module

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape

from homegrown.errors import UserError

_NEEDS = "needs llama.cpp's quantizer"


def check(kind: str) -> None:
    """Load the quantizer, for a file of `kind`.

    Raises:
        UserError: xllamacpp is not installed, or its library does not show the quantizer.
    """
    try:
        _library()
    except ImportError as error:
        raise UserError(
            f"{kind} {_NEEDS}, which is not installed; pip install 'homegrown[llama-cpp]', or choose q8_0 or q4_0."
        ) from error
    except (OSError, AttributeError) as error:
        raise UserError(
            f"{kind} {_NEEDS}, which this machine's xllamacpp does not offer ({error}); choose q8_0 or q4_0."
        ) from error


def quantize(rows: npt.NDArray[np.float32], to: GGMLQuantizationType) -> npt.NDArray[np.uint8]:
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
    """Return the library with the quantizer's types declared (ggml.h)."""
    library = ctypes.CDLL(str(import_module("xllamacpp.xllamacpp").__file__))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # source, float32
        ctypes.c_void_p,  # destination
        ctypes.c_int64,  # the first number to quantize
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # numbers in a row
        ctypes.c_void_p,  # importance matrix
    ]
    return library
