"""pretrain: weights, metrics, samples and a training curve."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homegrown.config.adaptation import AdaptationSettings
from homegrown.config.compute import ComputeSettings
from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.reporting import charts
from homegrown.reporting.numbers import share, shown
from homegrown.store.manifest import Artifact
from homegrown.training import extension
from homegrown.training.job import CURVE, SAMPLES, Nodes
from homegrown.util import devices
from homegrown.util.progress import Metric, Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import code, picture, quoted, table
from tasks.ui.panels import Panel

_STEPS_SHOWN = 6
_LINE = 60
"""Maximum characters of a prompt that fits a line of the page."""


def _live(folder: Path) -> str | None:
    """Show the curve so far, when it was drawn, and the latest samples."""
    if not (folder / CURVE).is_file():
        return None
    drawn = datetime.fromtimestamp((folder / CURVE).stat().st_mtime, UTC)
    return f"Curve drawn {drawn:%Y-%m-%d %H:%M:%S} UTC\n\n{_training(folder, 1)}"


def _report(artifact: Artifact) -> str:
    """Show the curve, the sources of a mixture, and the samples of several steps."""
    return "\n\n".join([*_sources(artifact.manifest.metrics), _training(artifact.path, _STEPS_SHOWN)])


def _sources(metrics: Mapping[str, Metric]) -> list[str]:
    """Return a table of what each source of the mixture gave, and the loss on its held-out text."""
    names = [name[len("mixture_") : -len("_epochs")] for name in metrics if re.fullmatch("mixture_.*_epochs", name)]
    rows = [
        [
            name,
            shown(metrics[f"mixture_{name}_tokens"]),
            share(int(metrics[f"mixture_{name}_tokens"]), int(metrics["tokens"])),
            shown(metrics[f"mixture_{name}_epochs"]),
            shown(metrics.get(f"mixture_{name}_bits_per_byte", "")),
        ]
        for name in names
    ]
    header = ["source", "tokens", "of all", "epochs", "bits per byte, held out"]
    return ["### Sources", table(header, rows)] if rows else []


def _excerpt(artifact: Artifact) -> str:
    return _training(artifact.path, 1)


def _training(folder: Path, steps: int) -> str:
    """Return the curve and the samples of `steps` steps."""
    curve = picture(charts.smaller((folder / CURVE).read_bytes()), "Loss, learning rate, gradient norm and speed")
    return "\n\n".join(["### Training", curve, *_samples(folder, steps)])


def _samples(folder: Path, most: int) -> list[str]:
    """Return the latest samples in full, and those of up to `most` - 1 earlier steps on one line each."""
    import pyarrow.parquet as pq

    if not (folder / SAMPLES).is_file():
        return []
    by_step: dict[int, list[dict[str, Any]]] = {}
    for sample in pq.ParquetFile(folder / SAMPLES).read().to_pylist():
        by_step.setdefault(sample["step"], []).append(sample)
    last, *before = sorted(by_step, reverse=True)
    parts = [f"### Samples at step {last:,}"]
    for sample in by_step[last]:
        parts += [*_prompt(sample["prompt"]), quoted(sample["text"])]
    every = max(1, math.ceil(len(before) / (most - 1))) if most > 1 else len(before) + 1
    for step in before[every - 1 :: every]:
        texts = [" ".join(f"{sample['prompt']}{sample['text']}".split()) for sample in by_step[step]]
        parts += [f"#### Step {step:,}", quoted("\n\n".join(texts))]
    return parts


def _prompt(prompt: str) -> list[str]:
    """Return a prompt as a heading of its sample; the UI wraps a sentence around a prompt longer than a line."""
    if not prompt:
        return ["Without a prompt:"]
    if len(prompt) > _LINE:
        return ["Prompt:", quoted(prompt), "Completion:"]
    return [f"Prompt {code(prompt)}:"]


TRAINING_PANEL = Panel(_report, _excerpt, live=_live)
"""The panel of all kinds of training."""


def _extend(work: Work, choices: extension.Choices) -> None:
    """Begin with a checkpoint of a finished run; a run that is made again starts from step 1."""
    if not work.forced:
        extension.extend(store(), work.order, work.out, choices, work.note)


def nodes_of(compute: ComputeSettings) -> Nodes:
    """Return the machines of a training."""
    return Nodes(compute.nodes, compute.rendezvous)


@stage(
    "pretrain",
    engine=["homegrown.training.pretraining", "homegrown.training.worker"],
    seeded=True,
    panel=TRAINING_PANEL,
)
def pretrain(work: Work, settings: TrainingSettings, model: ModelSettings, pack: Handle, tokenizer: Handle) -> Outcome:
    """Train the model; resumes from the last checkpoint, or one of a finished run that this one extends."""
    from homegrown.training import pretraining as engine

    device = devices.resolve(work.compute.device)
    _extend(work, lambda training: engine.choices(training, model, pack.path, device))
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
            nodes=nodes_of(work.compute),
            progress=work.progress,
        )


@stage(
    "pretrain",
    engine=["homegrown.finetuning.adaptation", "homegrown.training.worker"],
    seeded=True,
    panel=TRAINING_PANEL,
)
def continue_pretraining(
    work: Work, settings: TrainingSettings, adaptation: AdaptationSettings, pack: Handle, base: Handle
) -> Outcome:
    """Train the base on; resumes from the last checkpoint, or one of a finished run that this one extends."""
    from homegrown.finetuning import adaptation as engine

    device = devices.resolve(work.compute.device)
    _extend(work, lambda training: engine.choices(training, adaptation, base.path / "model", device))
    with computing_on(device, work.compute.processes):
        return engine.adapt(
            work.out,
            base.path / "model",
            pack.path,
            adaptation,
            settings,
            seed=work.seed,
            device=device,
            processes=work.compute.processes,
            parallel=work.compute.parallel,
            nodes=nodes_of(work.compute),
            progress=work.progress,
        )
