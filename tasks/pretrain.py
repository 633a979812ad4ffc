"""Pretrain: weights, metrics, samples and a curve."""

import math
from pathlib import Path
from typing import Any

from homegrown import devices
from homegrown.outcome import Outcome
from homegrown.recipe import ModelSettings, TrainingSettings
from homegrown.training.job import CURVE, SAMPLES
from tasks.locks import computing_on
from tasks.panels import Panel, picture
from tasks.stage import Handle, Work, stage

_STEPS_SHOWN = 5


def _live(folder: Path) -> str | None:
    """Show the curve so far and what the model wrote last."""
    file = folder / CURVE
    if not file.is_file():
        return None
    return "\n\n".join([picture(file, "loss, learning rate, gradient norm and speed"), *_samples(folder, 1)])


def _report(folder: Path) -> str | None:
    """Show the curve, and how what the model writes got better."""
    curve = picture(folder / CURVE, "loss, learning rate, gradient norm and speed")
    return "\n\n".join([curve, *_samples(folder, _STEPS_SHOWN)])


def _samples(folder: Path, most: int) -> list[str]:
    """Return the samples of at most `most` steps, evenly from all up to the last, the later ones first."""
    import pyarrow.parquet as pq

    by_step: dict[int, list[dict[str, Any]]] = {}
    for sample in pq.ParquetFile(folder / SAMPLES).read().to_pylist():
        by_step.setdefault(sample["step"], []).append(sample)
    steps = sorted(by_step, reverse=True)
    chosen = steps[:: max(1, math.ceil(len(steps) / most))]
    return [f"### Step {step:,}\n\n" + "\n\n".join(map(_quoted, by_step[step])) for step in chosen]


def _quoted(sample: dict[str, Any]) -> str:
    prompt = f"after `{sample['prompt']}`" if sample["prompt"] else "from the start of a document"
    return f"{prompt}\n\n```text\n{sample['text'].replace('```', '` ` `')}\n```"


@stage(
    "pretrain",
    engine=["homegrown.training.pretrain", "homegrown.training.worker"],
    seeded=True,
    panel=Panel(markdown=_report, live=_live),
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
