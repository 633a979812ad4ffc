"""Progress from the leading worker to the launching process: lines of JSON, appended to a small file."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homegrown.util.progress import Metric

_LEAST_SECONDS = 0.2


class Report:
    """Appends the lines that the launching process relays."""

    def __init__(self, path: Path):
        self._path = path
        self._last = 0.0
        self._reached: tuple[int, int | None] = 0, None

    def is_due(self) -> bool:
        """Return whether an ordinary step is worth a line: at most five times a second."""
        return time.monotonic() - self._last >= _LEAST_SECONDS

    def step(self, done: int, total: int, **metrics: Metric) -> None:
        """Report that `done` of `total` steps are finished."""
        self._last, self._reached = time.monotonic(), (done, total)
        self._append({"done": done, "total": total, "metrics": metrics})

    def note(self, message: str) -> None:
        """Report a message for the person who watches."""
        print(message, flush=True)
        done, total = self._reached
        self._append({"done": done, "total": total, "metrics": {"note": message}})

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Relay:
    """Reads a report as it grows."""

    def __init__(self, path: Path):
        self._path = path
        self._position = 0

    def new(self) -> Iterator[tuple[float, float | None, dict[str, Metric]]]:
        """Yield (done, total, metrics) of each line that was completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                report = json.loads(line)
                yield report["done"], report["total"], report["metrics"]
