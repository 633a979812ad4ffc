"""Shards' functions that a worker imports: they leave marks, and one kills the process that it runs in."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shard:
    marks: Path
    number: int
    kills: int = 0
    """How many times it kills its process before it comes to its end."""


def number(shard: Shard) -> tuple[int, Path]:
    """Leave a mark; return the number and the path of the mark."""
    starts = len(list(shard.marks.glob(f"{shard.number}-*")))
    mark = shard.marks / f"{shard.number}-{starts}"
    mark.touch()
    if starts < shard.kills:
        time.sleep(1)  # what the worker did before is collected by now
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.number, mark


def marked(function: Callable[..., Any], mark: Path, fatal: bool, *arguments: Any) -> Any:
    """Call a shard's function and leave a mark; `fatal` kills the process at the first end, before anybody knows."""
    starts = len(list(mark.parent.glob(f"{mark.name}-*")))
    mark.with_name(f"{mark.name}-{starts}").touch()
    result = function(*arguments)
    if fatal and not starts:
        time.sleep(2)  # what the worker did before is collected by now
        os.kill(os.getpid(), signal.SIGKILL)
    return result
