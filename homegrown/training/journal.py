"""What a run leaves to be watched by while it goes on: each step as a line of JSON, the samples, an event file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from homegrown.training.job import EVENTS, SAMPLES, STEPS
from homegrown.training.metrics import Sample, StepMetrics, samples_table
from homegrown.util.files import replacing, write_parquet


class Journal:
    """Keeps `steps.jsonl`, `samples.parquet` and `tensorboard/` with the steps that the loop's state has."""

    def __init__(self, out: Path, metrics: Sequence[StepMetrics], samples: Sequence[Sample]):
        """Begin in `out` with the steps so far, in the place of what an interrupted run left."""
        from homegrown.training.tensorboard import EventFile  # who only reads the steps does without

        self._out, self._samples = out, list(samples)
        with replacing(out / STEPS) as temporary:
            temporary.write_bytes(b"".join(map(_line, metrics)))
        self._steps = (out / STEPS).open("ab")
        self._events = EventFile(out / EVENTS, metrics, samples)
        write_parquet(out / SAMPLES, samples_table(self._samples))

    def add(self, row: StepMetrics, samples: Sequence[Sample]) -> None:
        """Add a step and what was sampled at it."""
        self._steps.write(_line(row))
        self._steps.flush()
        self._events.add(row, samples)
        if samples:
            self._samples += samples
            write_parquet(self._out / SAMPLES, samples_table(self._samples))

    def close(self) -> None:
        """Write out what is not on its way to the disk yet."""
        self._steps.close()
        self._events.close()


def read_steps(out: Path) -> list[StepMetrics]:
    """Return the steps that the journal in `out` has so far; none before it begins."""
    try:
        lines = (out / STEPS).read_bytes().split(b"\n")[:-1]  # what follows the last line's end is half a line
    except FileNotFoundError:
        return []
    return [StepMetrics(**{"loss": math.nan, "gradient_norm": math.nan, **_told(line)}) for line in lines]


def _line(row: StepMetrics) -> bytes:
    """Return the step as a line; what is no number is null, because JSON has no word for it."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _told(line: bytes) -> dict[str, Any]:
    return {name: value for name, value in orjson.loads(line).items() if value is not None}
