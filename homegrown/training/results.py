"""What a finished training leaves in its folder."""

import json
import statistics
from pathlib import Path

from homegrown.files import replacing, write_parquet
from homegrown.model import weights
from homegrown.progress import Metric
from homegrown.tokens.tokenizer import TOKENIZER_FILE
from homegrown.training.curve import draw_curve
from homegrown.training.job import SUMMARY, Job
from homegrown.training.loop import Trainer
from homegrown.training.metrics import metrics_table, samples_table

_LOSS_STEPS = 50


def finish(trainer: Trainer, job: Job, out: Path, resumed_from: int) -> None:
    """Write model, tables, curve and, last, the summary, which marks the run as finished.

    The model has the weights of the best validation, which are the final ones unless training went on to get worse.
    """
    state = trainer.state
    last = state.metrics[-1]
    kept = next(row for row in state.metrics if row.step == (state.best_step or state.step))
    weights.save(trainer.checkpoints.model(kept.step, trainer.config), out / "model")
    with replacing(out / "model" / TOKENIZER_FILE) as temporary:
        temporary.write_bytes((job.tokenizer / TOKENIZER_FILE).read_bytes())
    write_parquet(out / "metrics.parquet", metrics_table(state.metrics))
    write_parquet(out / "samples.parquet", samples_table(state.samples))
    draw_curve(out / "curve.png", state.metrics)
    summary: dict[str, Metric] = {
        "parameters": trainer.config.parameter_count(),
        "steps": state.step,
        "tokens": last.tokens,
        "training_loss": statistics.fmean(row.loss for row in state.metrics[-_LOSS_STEPS:]),
        "weights": "final" if kept.step == state.step else f"best validation, step {kept.step}",
        "weights_step": kept.step,
        "tokens_per_second": statistics.median(row.tokens_per_second for row in state.metrics),
        "seconds": state.seconds,
        "resumed_from": resumed_from,
    }
    if kept.validation_loss is not None and kept.validation_bits_per_byte is not None:
        summary["validation_loss"] = kept.validation_loss
        summary["validation_bits_per_byte"] = kept.validation_bits_per_byte
    with replacing(out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
