"""Compilation of kernels: once per machine, cached beside the module, without the GIL."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import pyarrow as pa
from numba.core.caching import IndexDataCacheFile
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])


class _Index(IndexDataCacheFile):  # type: ignore[misc]
    """numba's index of compiled versions; one written by other code is ignored, though its classes may be gone."""

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except Exception:  # whatever unpickling raises
            return {}


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers at its first call with their types (numba, nopython mode).

    The cache is valid only while neither the function's own file nor a module of this package changes: numba itself
    checks just the own file and would keep code inlined from other files.
    """
    dispatcher = numba.njit(cache=True, nogil=True)(function)
    own = dispatcher._cache
    own._cache_file = _Index(
        own._cache_path, own._impl.filename_base, (*_stamp(), _facts(Path(function.__code__.co_filename)))
    )
    return cast("Function", dispatcher)


def buffers(texts: pa.StringArray) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return an Arrow array's bytes (UTF-8) and its n + 1 offsets into them."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(texts.buffers()[2] or b"", np.uint8), offsets


@cache
def _stamp() -> tuple[tuple[str, int, int], ...]:
    """Return name, modification time and size of every module of this package."""
    return tuple(map(_facts, sorted(Path(__file__).parent.rglob("*.py"))))


def _facts(module: Path) -> tuple[str, int, int]:
    found = module.stat()
    return module.name, found.st_mtime_ns, found.st_size
