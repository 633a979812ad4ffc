"""The speed of training on this machine, measured once and kept in the store."""

import json
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.config.model import ModelSettings
from homegrown.config.recipe import Recipe
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import adapter_of
from homegrown.planning.cost import ASSUMED_UTILISATION
from homegrown.planning.gpus import Gpu
from homegrown.planning.machine import Machine
from homegrown.planning.plan import probe_fitting
from homegrown.planning.probe import Probed, probe, scaled, work
from homegrown.planning.scaling_rules import pass_rows, shape
from homegrown.planning.target import this_machine_as_target
from homegrown.store.artifacts import Store
from homegrown.util import devices
from homegrown.util.files import replacing

SPEEDS = "speeds.json"
"""In the store's folder of states: the speeds by machine."""
_PROBED: dict[str, tuple[tuple[int, int, int], ...]] = {
    "cpu": ((2, 4096, 16), (6, 4096, 8), (2, 16_384, 16)),
    "accelerator": ((6, 16_384, 64), (16, 16_384, 64), (6, 65_536, 64)),
}
"""Depth, vocabulary and sequences per step of the models."""
_SECONDS = 3.0
_SPECIFIED_START = 40.0
"""Seconds to the first step assumed for a GPU: an H100 took 26 to 50 (`benchmarks/results/gpu.md`)."""
_BUSY = 1.25
"""Ratio of time to processor time above which the machine is taken to be busy with other programs."""


class Speed(BaseModel):
    """Seconds of training on this machine: `per_token`, `per_flop` of model and optimizer, `per_logit` besides."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    per_token: float
    per_flop: float
    per_logit: float
    seconds_to_first_step: float
    busy: bool
    """Whether other programs used the processors, so that processor time was measured instead."""

    def step_seconds(self, config: ModelConfig, settings: TrainingSettings, devices: int) -> float:
        """Return the duration of an optimizer step on so many devices."""
        tokens = settings.batch_size * config.context / devices
        each = self.per_token + self.per_logit * config.vocabulary_size
        return each * tokens + self.per_flop * work(config, settings, devices)


class StepTime(BaseModel):
    """Seconds of an optimizer step of a base model on this machine, and of the start of its training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    step_seconds: float
    seconds_to_first_step: float
    busy: bool
    """Whether other programs used the processors, so that processor time was measured instead."""


def speed_of(store: Store, recipe: Recipe, machine: Machine, note: Callable[[str], None] = lambda _: None) -> Speed:
    """Return the speed of this machine, measured in half a minute unless the store knows it, which `note` reports.

    Raises:
        UserError: the recipe requires a GPU that is missing.
    """
    device = machine.device(recipe.compute.device)
    return _measured_once(store, _name(recipe, machine, device), Speed, lambda: measure(recipe, device), note)


def step_time_of(
    store: Store, recipe: Recipe, config: ModelConfig, machine: Machine, note: Callable[[str], None]
) -> StepTime:
    """Return the time of a step of the recipe's base, whose `config` has the training context, measured once.

    Raises:
        UserError: the recipe requires a GPU that is missing, or its base has sizes that cannot be measured.
    """
    shape = f"{config.hidden} x {config.layers} x {config.context}, batches of {recipe.training.batch_size}"
    name = f"{_name(recipe, machine, machine.device(recipe.compute.device))}, {shape}, {adapter_of(recipe)}"

    def measure() -> StepTime:
        probed = probe_fitting(recipe, config, this_machine_as_target(machine, recipe, watts=None))
        seconds, busy = _idle_seconds(probed, processor_time=False)
        start = probed.seconds_to_first_step
        return StepTime(
            step_seconds=scaled(recipe, config, probed.model_copy(update={"step_seconds": seconds})),
            seconds_to_first_step=min(start, probed.busy_seconds_to_first_step) if busy else start,
            busy=busy,
        )

    return _measured_once(store, name, StepTime, measure, note)


_M = TypeVar("_M", bound=BaseModel)


def _measured_once(
    store: Store, name: str, kind: type[_M], measure: Callable[[], _M], note: Callable[[str], None]
) -> _M:
    """Return what the store knows by a name, else measure it, which `note` reports, and keep it."""
    path = store.root / ".state" / SPEEDS
    try:
        known = json.loads(path.read_bytes())
        return kind.model_validate(known[name])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        pass
    note("The speed of this machine is measured once, in half a minute; on a busy machine it takes longer.")
    measured = measure()
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**known, name: measured.model_dump()}, indent=2) + "\n")
    return measured


def specified(gpu: Gpu) -> Speed:
    """Return the speed of a GPU that is not at hand, by its specification, as `plan --gpu` assumes it."""
    per_flop = 1 / (gpu.teraflops * 1e12 * ASSUMED_UTILISATION)
    return Speed(per_token=0, per_flop=per_flop, per_logit=0, seconds_to_first_step=_SPECIFIED_START, busy=False)


def _name(recipe: Recipe, machine: Machine, device: str) -> str:
    """Return what the speed depends on: the processors or GPUs, and the precision."""
    compute, precision = recipe.compute, recipe.training.precision
    if device != "cpu":
        gpus = ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus))
        return f"{compute.processes} x {gpus}, {precision}"
    instructions = " ".join(machine.instructions)
    return f"{machine.processors} x {machine.processor}, {instructions}, {precision}"


def measure(recipe: Recipe, device: str, *, processor_time: bool = False) -> Speed:
    """Train three models for some seconds each; by processor time if asked for, or if the machine is busy."""
    parts: list[list[float]] = []
    took: list[float] = []
    busy, first, devices = False, 0.0, recipe.compute.processes
    for depth, vocabulary, rows in _PROBED["cpu" if device == "cpu" else "accelerator"]:
        model = shape(depth)
        config = ModelConfig.from_settings(model, vocabulary, dropout=0.0)
        probed = probe(_probing(recipe, model, rows, device), config, device, seconds=_SECONDS, layers=depth)
        seconds, loaded = _idle_seconds(probed, processor_time)
        start = probed.seconds_to_first_step
        first = max(first, min(start, probed.busy_seconds_to_first_step) if loaded else start)
        busy = busy or loaded
        tokens = rows * model.context
        parts.append([tokens, work(config, probed.training, devices), tokens * vocabulary])
        took.append(seconds)
    per_token, per_flop, per_logit = _shares(parts, took)
    return Speed(per_token=per_token, per_flop=per_flop, per_logit=per_logit, seconds_to_first_step=first, busy=busy)


def _shares(parts: list[list[float]], took: list[float]) -> list[float]:
    """Return the seconds of each part of the work, none negative, that together give what the steps took."""
    scale = np.array(parts).max(axis=0)
    matrix, seconds = np.array(parts) / scale, np.array(took)
    used = list(range(len(scale)))
    while True:  # what noise makes negative is left out
        found = np.linalg.lstsq(matrix[:, used] / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]
        if (found >= 0).all():
            break
        used.pop(int(found.argmin()))
    shares = np.zeros(len(scale))
    shares[used] = found
    values: list[float] = (shares / scale).tolist()
    return values


def _idle_seconds(probed: Probed, processor_time: bool) -> tuple[float, bool]:
    """Return the duration of a step if nothing else ran, and whether it is in processor time."""
    busy = probed.kind == "cpu" and (processor_time or probed.step_seconds > _BUSY * probed.busy_seconds)
    return (probed.busy_seconds if busy else probed.step_seconds), busy


def _probing(recipe: Recipe, model: ModelSettings, rows: int, device: str) -> Recipe:
    """Return a recipe of the model to probe."""
    training = recipe.training.model_copy(
        update={
            "batch_size": rows * recipe.compute.processes,
            "micro_batch_size": pass_rows(model, rows) if device == "cpu" else "auto",
            "orthogonalization_steps": 3 if device == "cpu" else 5,
            # A GPU's run that is worth a plan is long enough to compile; on a CPU it gains a twelfth.
            "compile": "never" if device == "cpu" or devices.compiler(device) is None else "always",
            "initialisation": "random",
            "dropout": 0.0,
        }
    )
    return recipe.model_copy(update={"model": model, "training": training})
