"""The event file of a run for TensorBoard: `tensorboard --logdir artifacts/pretrain`."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import text

from homegrown.training.metrics import Sample, StepMetrics

_FLUSH_SECONDS = 10.0
_TAGS = {
    "loss/training": "loss",
    "loss/validation": "validation_loss",
    "loss/validation_bits_per_byte": "validation_bits_per_byte",
    "optimizer/learning_rate": "learning_rate",
    "optimizer/gradient_norm": "gradient_norm",
    "optimizer/skipped": "skipped",
    "speed/tokens_per_second": "tokens_per_second",
    "speed/model_flops_utilisation": "model_flops_utilisation",
    "memory/peak_bytes": "peak_memory_bytes",
}


class EventFile:
    """Writes each step's metrics and samples.

    A run that resumes from a checkpoint, or rolls back to one, starts a new file with all steps so far and removes the
    old one: every reader sees each step once. Times are those of training itself, without pauses.
    """

    def __init__(self, folder: Path, metrics: Sequence[StepMetrics], samples: Sequence[Sample]):
        """Start the file in `folder` with the steps so far."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        self._began = time.time() - (metrics[-1].seconds if metrics else 0.0)
        # TensorBoard needs "tfevents" in the name; its own writers add the name of the machine.
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._writer.write(Event(wall_time=self._began, file_version="brain.Event:2").SerializeToString())
        written: dict[int, list[Sample]] = defaultdict(list)
        for sample in samples:
            written[sample.step].append(sample)
        for row in metrics:
            self._write(row, written.get(row.step, []))
        self._flush()

    def add(self, row: StepMetrics, samples: Sequence[Sample]) -> None:
        """Add a step and its samples; they are in the file within seconds."""
        self._write(row, samples)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._flush()
        self._writer.close()

    def _write(self, row: StepMetrics, samples: Sequence[Sample]) -> None:
        figures = {tag: getattr(row, name) for tag, name in _TAGS.items()}
        figures |= {f"loss/bits_per_byte_{source}": bits for source, bits in row.validation_by_source.items()}
        summary = Summary(
            value=[
                Summary.Value(tag=tag, simple_value=figure)
                for tag, figure in figures.items()
                if figure is not None and math.isfinite(figure)
            ]
        )
        for number, sample in enumerate(samples, 1):
            summary.MergeFrom(text(f"samples/{number}", f"````\n{sample.prompt}{sample.text}\n````"))
        event = Event(wall_time=self._began + row.seconds, step=row.step, summary=summary)
        self._writer.write(event.SerializeToString())

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()
