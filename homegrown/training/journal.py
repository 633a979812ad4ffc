"""The files to watch a running training by: `steps.jsonl`, a line of JSON for each step, and the samples."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from homegrown.training.job import SAMPLES, STEPS
from homegrown.training.metrics import Sample, StepMetrics, samples_table
from homegrown.util.files import replacing, write_parquet


class Journal:
    """Keeps `steps.jsonl` and `samples.parquet` up to date."""

    def __init__(self, out: Path, metrics: Sequence[StepMetrics], samples: Sequence[Sample]):
        """Start the files in `out` with the steps so far, and replace those of an interrupted run."""
        self._out, self._samples = out, list(samples)
        with replacing(out / STEPS) as temporary:
            temporary.write_bytes(b"".join(map(_line, metrics)))
        self._steps = (out / STEPS).open("ab")
        write_parquet(out / SAMPLES, samples_table(self._samples))

    def add(self, row: StepMetrics, samples: Sequence[Sample]) -> None:
        """Add a step and its samples."""
        self._steps.write(_line(row))
        self._steps.flush()
        if samples:
            self._samples += samples
            write_parquet(self._out / SAMPLES, samples_table(self._samples))

    def close(self) -> None:
        """Close the file of steps."""
        self._steps.close()


def read_steps(out: Path) -> list[StepMetrics]:
    """Return the steps in the journal of `out` so far."""
    try:
        lines = (out / STEPS).read_bytes().split(b"\n")[:-1]  # the last line may be incomplete
    except FileNotFoundError:
        return []
    return [StepMetrics(**{"loss": math.nan, "gradient_norm": math.nan, **_values(line)}) for line in lines]


def _line(row: StepMetrics) -> bytes:
    """Return the step as a line; infinite and NaN values are null, because JSON has neither."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _values(line: bytes) -> dict[str, Any]:
    return {name: value for name, value in orjson.loads(line).items() if value is not None}
