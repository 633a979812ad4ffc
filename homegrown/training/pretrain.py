"""Pretraining as a stage: token shards in, a model with its metrics, samples and curve out."""

import json
import shutil
from pathlib import Path

from homegrown.outcome import Outcome
from homegrown.progress import Progress, silent
from homegrown.recipe import ModelSettings, Parallel, TrainingSettings
from homegrown.tokens.loader import TokenSplit
from homegrown.training.job import (
    CHECKPOINTS,
    JOB,
    LOGS,
    PARENT_LOCK,
    PROGRESS,
    STEPS,
    SUMMARY,
    WORKER_LOCK,
    Job,
)


def pretrain(
    out: Path,
    packed: Path,
    tokenizer: Path,
    model: ModelSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    device: str,
    processes: int,
    parallel: Parallel = "ddp",
    progress: Progress = silent,
) -> Outcome:
    """Train a model from the folders of packed tokens and of their tokenizer, with `processes` workers.

    Writes `model/` (config.json, model.safetensors, tokenizer.json), `metrics.parquet`, `samples.parquet`, `curve.png`,
    `tensorboard/`, `summary.json` and the last checkpoint; while training goes on, curve, samples and event file are
    those so far, and `steps.jsonl` has a line for each step. Called again on the same `out` it goes on from the newest
    checkpoint; on a CPU the weights are then the same, bit for bit, as if it had not stopped.

    Raises:
        UserError: a setting does not fit the data or the machine, or training diverges again and again.
        RuntimeError: a worker failed for another reason; the message names its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(packed, "train")
    if not (out / SUMMARY).exists():
        from homegrown.training.launch import launch  # PyTorch is slow to import, and needed only here

        job = Job(
            packed=packed.resolve(),
            tokenizer=tokenizer.resolve(),
            model=model,
            training=settings,
            seed=seed,
            device=device,
            parallel=parallel,
        )
        launch(job.write(out.resolve()), processes, progress)
    summary = json.loads((out / SUMMARY).read_bytes())
    _tidy(out)
    return Outcome(rows_in=train.tokens, rows_out=summary["tokens"], unit="tokens", metrics=summary)


def _tidy(out: Path) -> None:
    """Remove what only served the run: it names this machine's paths and is of no use once training is finished."""
    for name in (JOB, PROGRESS, PARENT_LOCK, WORKER_LOCK, STEPS):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)
    newest = max((out / CHECKPOINTS).glob("step-*"))
    for path in (out / CHECKPOINTS).iterdir():
        if path != newest:
            shutil.rmtree(path)
