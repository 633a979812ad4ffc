"""How kernels are compiled: once per machine, kept beside the module, without Python's lock."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers when it is first called with their types (numba, nopython mode).

    What is kept of an earlier process is used only while no module of this package has changed: numba itself looks at
    the function's own file, and would go on using what it once inlined from another.
    """
    dispatcher = numba.njit(cache=True, nogil=True)(function)
    dispatcher._cache._cache_file._source_stamp = _stamp()
    return cast("Function", dispatcher)


@cache
def _stamp() -> tuple[tuple[str, int, int], ...]:
    """Return name, time and size of every module beside this one."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in modules)
