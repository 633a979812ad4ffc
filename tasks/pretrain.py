"""Pretrain: weights, metrics, samples and a curve."""

import math
from pathlib import Path
from typing import Any

from homegrown.config.recipe import ModelSettings, TrainingSettings
from homegrown.reporting import charts
from homegrown.store.artifacts import Artifact
from homegrown.training.job import CURVE, SAMPLES
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage
from tasks.ui.markdown import code, picture, quoted
from tasks.ui.panels import Panel

_STEPS_SHOWN = 6
_LINE = 60
"""Characters of a prompt that are sure to fit a line of the page."""


def _live(folder: Path) -> str | None:
    """Show the curve so far and what the model wrote last."""
    if not (folder / CURVE).is_file():
        return None
    return _training(folder, 1)


def _report(artifact: Artifact) -> str:
    """Show the curve, and how what the model writes got better."""
    return _training(artifact.path, _STEPS_SHOWN)


def _excerpt(artifact: Artifact) -> str:
    return _training(artifact.path, 1)


def _training(folder: Path, steps: int) -> str:
    """Return the curve, and what the model wrote at `steps` steps."""
    curve = picture(charts.smaller((folder / CURVE).read_bytes()), "loss, learning rate, gradient norm and speed")
    return "\n\n".join(["### Training", curve, *_samples(folder, steps)])


def _samples(folder: Path, most: int) -> list[str]:
    """Return what the model wrote last, whole, and at up to `most` - 1 steps before, each text as one line."""
    import pyarrow.parquet as pq

    if not (folder / SAMPLES).is_file():
        return []
    by_step: dict[int, list[dict[str, Any]]] = {}
    for sample in pq.ParquetFile(folder / SAMPLES).read().to_pylist():
        by_step.setdefault(sample["step"], []).append(sample)
    last, *before = sorted(by_step, reverse=True)
    parts = [f"### What it writes at step {last:,}"]
    for sample in by_step[last]:
        parts += [*_prompt(sample["prompt"]), quoted(sample["text"])]
    every = max(1, math.ceil(len(before) / (most - 1))) if most > 1 else len(before) + 1
    for step in before[every - 1 :: every]:
        texts = [" ".join(f"{sample['prompt']}{sample['text']}".split()) for sample in by_step[step]]
        parts += [f"#### At step {step:,}", quoted("\n\n".join(texts))]
    return parts


def _prompt(prompt: str) -> list[str]:
    """Return a prompt in its sentence; the UI breaks the sentence around one that is longer than a line."""
    if not prompt:
        return ["Unasked:"]
    if len(prompt) > _LINE:
        return ["After:", quoted(prompt), "it writes:"]
    return [f"After {code(prompt)}:"]


TRAINING_PANEL = Panel(_report, _excerpt, live=_live)
"""What every kind of training shows."""


@stage(
    "pretrain",
    engine=["homegrown.training.pretrain", "homegrown.training.worker"],
    seeded=True,
    panel=TRAINING_PANEL,
)
def pretrain(work: Work, settings: TrainingSettings, model: ModelSettings, pack: Handle, tokenizer: Handle) -> Outcome:
    """Train the model; goes on from the last checkpoint after a kill."""
    from homegrown.training import pretrain as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, work.compute.processes):
        return engine.pretrain(
            work.out,
            pack.path,
            tokenizer.path,
            model,
            settings,
            seed=work.seed,
            device=device,
            processes=work.compute.processes,
            parallel=work.compute.parallel,
            progress=work.progress,
        )
