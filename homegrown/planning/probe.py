"""A probe: a few measured training steps on random tokens, those of the recipe or a slice, in the engine's own loop."""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from homegrown.config.model import ModelSettings
from homegrown.config.settings import Settings
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import (
    Adapter,
    AnyRecipe,
    adapter_of,
    flops_per_token,
    optimizer_flops,
    recomputed_flops_per_token,
    shape_of,
    step_tokens,
)
from homegrown.planning.synthetic import write_synthetic
from homegrown.training.job import LOGS, NO_TCP_STORE, PARENT_LOCK, REFUSAL, STORE
from homegrown.training.pretraining import Job
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

RESULT = "probe.json"

_WINDOWS = 64
_SHORT_CONTEXT = 128
_PASS_TOKENS = 1024
_PATIENCE = 5
_USUAL_SHARE = 0.25
"""Share of the measured peak assumed for training to choose the slice."""


class ProbeJob(Settings):
    """The job of the probing processes: the training of the recipe, and how much of it to measure."""

    job: Job
    seconds: float
    """Duration of the measured steps, after warm-up."""
    step_seconds: float | None
    """Target duration of a step of the slice; None: measure the full training."""
    layers: int
    """Maximum layers of the slice, for its memory."""
    adapter: Adapter | None
    """The adapter that is trained, on weights in 16 bits; None: all weights."""


class Probed(BaseModel):
    """Measurements of the leading process; `model` and `training` are those measured."""

    model_config = ConfigDict(frozen=True)
    model: ModelSettings
    training: TrainingSettings
    device: str
    kind: str
    precision: str
    micro_batch_size: int
    compiled: bool
    steps: int
    step_seconds: float
    """The median."""
    busy_seconds: float
    """Processor time of a step per thread, on a CPU: its duration on an idle machine."""
    tokens_per_second: float
    model_flops_utilisation: float
    """Relative to `peak_flops`, the speed of the fastest matrix product measured on this device."""
    peak_flops: float
    seconds_to_first_step: float
    """From the start of the launcher to the end of the first optimizer step."""
    busy_seconds_to_first_step: float
    """Processor time of launcher and worker until then: its duration on an idle machine, on a CPU."""
    peak_memory_bytes: int
    base_memory_bytes: int
    """Memory of the process before it built the model: PyTorch itself on a CPU, nothing on a GPU."""
    watts: float | None
    """Power of the processor packages during the steps; None without a counter."""


def probe(
    recipe: AnyRecipe,
    config: ModelConfig,
    kind: str,
    *,
    seconds: float,
    step_seconds: float | None = None,
    layers: int,
) -> Probed:
    """Train the recipe's model for `seconds` in processes of their own, as many as the recipe sets; leave no files.

    With `step_seconds`, train a slice whose steps take about so long, with at most `layers` layers.

    Raises:
        UserError: the training refuses its settings, or the GPU's memory is full.
        RuntimeError: the processes failed for another reason; the message ends with their last output.
    """
    with tempfile.TemporaryDirectory(prefix="homegrown-probe-") as name:
        folder = Path(name)
        model = shape_of(recipe, config)
        job = Job(
            packed=folder / "packed",
            tokenizer=folder / "tokenizer",
            model=model,
            training=recipe.training,
            seed=recipe.seed,
            device=kind,
            parallel=recipe.compute.parallel,
        )
        write_synthetic(folder, config.vocabulary_size, model.context, _WINDOWS)
        adapter = adapter_of(recipe)
        order = ProbeJob(job=job, seconds=seconds, step_seconds=step_seconds, layers=layers, adapter=adapter)
        path = folder / "job.json"
        with replacing(path) as temporary:
            temporary.write_text(order.model_dump_json())
        said = _launch(path, recipe.compute.processes)
        if (folder / REFUSAL).exists():
            raise UserError((folder / REFUSAL).read_text())
        if not (folder / RESULT).exists():
            raise RuntimeError(f"The probe failed:\n{said[-2000:]}")
        return Probed.model_validate_json((folder / RESULT).read_bytes())


def _launch(job: Path, processes: int) -> str:
    """Run the workers and return their output; they exit when this process dies."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    meeting = f"--rdzv-endpoint={job.parent / STORE}agent"  # through a file, as in homegrown.training.launcher
    alone = ["--rdzv-backend=c10d", meeting, "--rdzv-conf=store_type=file", "--local-addr=127.0.0.1"]
    logs = f"--log-dir={job.parent / LOGS}"
    command = [*launcher, *alone, logs, "-m", "homegrown.planning.probe_worker", str(job)]
    with locks.exclusive(job.parent / PARENT_LOCK):
        environment = os.environ | {NO_TCP_STORE: "1"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    return done.stdout


def work(config: ModelConfig, settings: TrainingSettings, devices: int, adapter: Adapter | None = None) -> float:
    """Return the operations of one device per step: its share of the batch, recomputed activations, Muon's products."""
    per_token = flops_per_token(config, adapter)
    if settings.activation_checkpointing:
        per_token += recomputed_flops_per_token(config)
    return step_tokens(config, settings) * per_token / devices + optimizer_flops(config, settings)


def slice_of(
    model: ModelSettings,
    training: TrainingSettings,
    vocabulary_size: int,
    devices: int,
    adapter: Adapter | None = None,
    *,
    flops_per_second: float,
    step_seconds: float,
    layers: int,
) -> tuple[ModelSettings, TrainingSettings]:
    """Return a slice of the training whose steps take about `step_seconds`, with at most `layers` layers.

    The batch shrinks to a pass of 1,024 tokens at least, the model to 2 layers. If that is still several times too
    slow, they shrink further: one layer, shorter passes. Widths and vocabulary, on which speed depends, stay.
    """
    size: dict[str, int] = {
        "batch": training.batch_size,
        "layers": min(model.layers, layers),
        "context": model.context,
    }
    least_batch = devices * max(1, _PASS_TOKENS // model.context)
    gentle, harsh = step_seconds, _PATIENCE * step_seconds
    cuts = [("batch", least_batch, gentle), ("layers", 2, gentle)]
    cuts += [("layers", 1, harsh), ("batch", devices, harsh), ("context", _SHORT_CONTEXT, harsh)]
    while True:
        shape = model.model_copy(update={"layers": size["layers"], "context": size["context"]})
        changes: dict[str, object] = {"batch_size": size["batch"]}
        if training.micro_batch_size != "auto":
            changes["micro_batch_size"] = math.gcd(training.micro_batch_size, size["batch"] // devices)
        cut = training.model_copy(update=changes)
        config = ModelConfig.from_settings(shape, vocabulary_size, training.dropout)
        seconds = work(config, cut, devices, adapter) / (_USUAL_SHARE * flops_per_second)
        while cuts and (size[cuts[0][0]] // 2 < cuts[0][1] or seconds <= cuts[0][2]):
            cuts.pop(0)
        if not cuts:
            return shape, cut
        what = cuts[0][0]
        size[what] = size[what] // 2 // devices * devices if what == "batch" else size[what] // 2


def scaled(recipe: AnyRecipe, config: ModelConfig, probed: Probed) -> float:
    """Return the seconds of one step of the full recipe, scaled from the slice by operations."""
    measured = ModelConfig.from_settings(probed.model, config.vocabulary_size, config.dropout)
    devices, adapter = recipe.compute.processes, adapter_of(recipe)
    factor = work(config, recipe.training, devices, adapter) / work(measured, probed.training, devices, adapter)
    return probed.step_seconds * factor
