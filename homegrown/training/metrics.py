"""Metrics and samples of each step, and their Arrow tables. Field names are those of stored columns."""

from dataclasses import asdict, dataclass, field

import pyarrow as pa

METRICS_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("gradient_norm", pa.float64(), nullable=False),
        pa.field("tokens_per_second", pa.float64(), nullable=False),
        pa.field("model_flops_utilisation", pa.float64(), nullable=False),
        pa.field("peak_memory_bytes", pa.int64(), nullable=False),
        pa.field("skipped", pa.bool_(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("validation_loss", pa.float64()),
        pa.field("validation_bits_per_byte", pa.float64()),
        pa.field("validation_by_source", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)
SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step, counted from 1.

    `loss` is the mean over the step's batch in nats per token, before its update; `gradient_norm` is taken before
    clipping; both may be infinite or NaN in a step whose update was `skipped`. `tokens` and `seconds` count from the
    start of training, over all interruptions. The speed is that of all workers, the memory the peak of the leading one.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    model_flops_utilisation: float
    peak_memory_bytes: int
    skipped: bool
    seconds: float
    validation_loss: float | None = None
    validation_bits_per_byte: float | None = None
    validation_by_source: dict[str, float] = field(default_factory=dict)
    """Bits per byte of each source of a mixture."""


@dataclass(frozen=True)
class Sample:
    """The model's completion of `prompt` at a step; `text` does not repeat the prompt."""

    step: int
    prompt: str
    text: str


def metrics_table(rows: list[StepMetrics]) -> pa.Table:
    """Return the steps as a table."""
    values = [asdict(row) | {"validation_by_source": list(row.validation_by_source.items())} for row in rows]
    return pa.Table.from_pylist(values, METRICS_SCHEMA)


def samples_table(rows: list[Sample]) -> pa.Table:
    """Return the samples as a table."""
    return pa.Table.from_pylist([asdict(row) for row in rows], SAMPLES_SCHEMA)
