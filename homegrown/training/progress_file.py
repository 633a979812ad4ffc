"""How the leading worker tells the launching process how far it is: lines of JSON, appended to a small file."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homegrown.util.progress import Metric

_LEAST_SECONDS = 0.2


class Report:
    """Appends what the launching process relays; ordinary steps at most five times a second."""

    def __init__(self, path: Path):
        self._path = path
        self._last = 0.0
        self._reached: tuple[int, int | None] = 0, None

    def step(self, done: int, total: int, important: bool, **metrics: Metric) -> None:
        """Say that `done` of `total` steps are finished."""
        now, self._reached = time.monotonic(), (done, total)
        if important or now - self._last >= _LEAST_SECONDS:
            self._last = now
            self._append({"done": done, "total": total, "metrics": metrics})

    def note(self, sentence: str) -> None:
        """Pass on a sentence for the person who watches."""
        print(sentence, flush=True)
        done, total = self._reached
        self._append({"done": done, "total": total, "metrics": {"note": sentence}})

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
                said = json.loads(line)
                yield said["done"], said["total"], said["metrics"]
