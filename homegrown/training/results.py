"""The results of a finished training."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from homegrown.training.curve import draw_curve
from homegrown.training.job import CURVE, EXTENDED, METRICS, SAMPLES, SUMMARY
from homegrown.training.metrics import StepMetrics, metrics_table, samples_table
from homegrown.training.optimizer import trained
from homegrown.training.trainer import Trainer
from homegrown.util.devices import peak_memory
from homegrown.util.files import replacing, write_parquet
from homegrown.util.progress import Metric

_LOSS_STEPS = 50


def finish(trainer: Trainer, out: Path, resumed_from: int) -> None:
    """Write model, tables, curve and, last, the summary, which marks the run as finished.

    The model has the last weights or, with `patience`, those of the best validation; with `averaging`, their average.
    """
    state = trainer.state
    last = state.metrics[-1]
    kept = next(row for row in state.metrics if row.step == (state.best_step or state.step))
    trainer.release()
    trainer.task.keep(trainer.checkpoints, kept.step, out)
    write_parquet(out / METRICS, metrics_table(state.metrics))
    write_parquet(out / SAMPLES, samples_table(state.samples))
    draw_curve(out / CURVE, state.metrics, trainer.job.loss_unit)
    summary: dict[str, Metric] = {
        "parameters": trainer.config.parameter_count(),
        "trained_parameters": sum(parameter.numel() for parameter in trained(trainer.model).values()),
        "steps": state.step,
        "tokens": last.tokens,
        "training_loss": _training_loss(state.metrics),
        "weights": _origin(trainer, kept.step),
        "weights_step": kept.step,
        "tokens_per_second": statistics.median(row.tokens_per_second for row in state.metrics),
        "model_flops_utilisation": statistics.median(row.model_flops_utilisation for row in state.metrics),
        "peak_memory_megabytes": max(
            peak_memory(trainer.worker.device), *(row.peak_memory_bytes for row in state.metrics)
        )
        / 1e6,
        "seconds": state.seconds,
        "seconds_to_first_step": state.seconds_to_first_step or 0.0,
        "skipped_steps": trainer.spikes.skipped_steps,
        "rolled_back_steps": trainer.spikes.rolled_back_steps,
        "resumed_from": resumed_from,
        "bit_identical": f"no: {inexact}" if (inexact := state.inexact or trainer.precision.inexact()) else "yes",
    }
    if (out / EXTENDED).exists():
        summary["extended_from"] = (out / EXTENDED).read_text()
    if kept.validation_loss is not None and kept.validation_bits_per_byte is not None:
        summary["validation_loss"] = kept.validation_loss
        summary["validation_bits_per_byte"] = kept.validation_bits_per_byte
    for name, (tokens, epochs) in trainer.batches.drawn(state.step).items():
        summary |= {f"mixture_{name}_tokens": tokens, f"mixture_{name}_epochs": epochs}
    summary |= {f"mixture_{name}_bits_per_byte": bits for name, bits in kept.validation_by_source.items()}
    with replacing(out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")


def _origin(trainer: Trainer, step: int) -> str:
    """Return which weights the result has."""
    origin = "final" if step == trainer.state.step else f"best validation, step {step}"
    share = trainer.settings.averaging
    return origin if share is None else f"{origin}, averaged over {share:.0%} of the steps"


def _training_loss(metrics: Sequence[StepMetrics]) -> float:
    """Return the mean loss of the last steps whose update was taken, else of the last step."""
    taken = [row.loss for row in metrics[-_LOSS_STEPS:] if not row.skipped]
    return statistics.fmean(taken or [metrics[-1].loss])
