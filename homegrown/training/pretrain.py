"""Pretraining as a stage: token shards in, a model with its metrics, samples and curve out."""

from pathlib import Path

from homegrown.config.recipe import ModelSettings, Parallel, TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.training.pretraining import Job
from homegrown.training.run import run_job
from homegrown.util.progress import Outcome, Progress, silent


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
    `tensorboard/`, `summary.json` and the last checkpoint. During training, curve, samples and event file are those so
    far, and `steps.jsonl` has a line for each step. Called again on the same `out`, it resumes from the newest
    checkpoint; on a CPU the weights are then the same, bit for bit, as without the interruption.

    Raises:
        UserError: a setting does not fit the data or the machine, or training diverges repeatedly.
        RuntimeError: a worker failed for another reason; the message names its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(packed, "train")
    job = Job(
        packed=packed.resolve(),
        tokenizer=tokenizer.resolve(),
        model=model,
        training=settings,
        seed=seed,
        device=device,
        parallel=parallel,
    )
    summary = run_job(job, out, processes, progress)
    return Outcome(rows_in=train.tokens, rows_out=int(summary["tokens"]), unit="tokens", metrics=summary)
