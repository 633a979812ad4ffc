"""How kernels are compiled: once per machine, kept beside the module, without Python's lock."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers when it is first called with their types (numba, nopython mode)."""
    return cast("Function", numba.njit(cache=True, nogil=True)(function))
