"""The speed of training on this machine, measured once with models of two sizes and kept in the store."""

import json
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.config.recipe import ModelSettings, Recipe, TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.machine import Machine
from homegrown.planning.probe import Probed, probe, work
from homegrown.planning.scaling_rules import shape
from homegrown.store.artifacts import Store
from homegrown.util.files import replacing

SPEEDS = "speeds.json"
"""In the store's folder of states: the speeds by machine."""
_PROBED: dict[str, tuple[tuple[int, int], ...]] = {
    "cpu": ((2, 8), (6, 8)),
    "cuda": ((6, 64), (16, 64)),
}
"""Depth and sequences per step of the two models."""
_VOCABULARY = 4096
_SECONDS = 3.0
_BUSY = 1.25
"""Ratio of time to processor time above which the machine is taken to be busy with other programs."""


class Speed(BaseModel):
    """Seconds of training on this machine: `per_token`, and `per_flop` of the model and the optimizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    per_token: float
    per_flop: float
    seconds_to_first_step: float
    busy: bool
    """Whether other programs used the processors, so that processor time was measured instead."""

    def step_seconds(self, config: ModelConfig, settings: TrainingSettings, devices: int) -> float:
        """Return the duration of an optimizer step on so many devices."""
        tokens = settings.batch_size * config.context / devices
        return self.per_token * tokens + self.per_flop * work(config, settings, devices)


@dataclass(frozen=True)
class _Point:
    tokens: int
    flops: float
    seconds: float


def speed_of(store: Store, recipe: Recipe, machine: Machine) -> Speed:
    """Return the speed of this machine, measured in some twenty seconds unless the store knows it.

    Raises:
        UserError: the recipe requires a GPU that is missing.
    """
    device, path = machine.device(recipe.compute.device), store.root / ".state" / SPEEDS
    name = _name(recipe, machine, device)
    try:
        known = json.loads(path.read_bytes())
        return Speed.model_validate(known[name])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        pass
    measured = measure(recipe, device)
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**known, name: measured.model_dump()}, indent=2) + "\n")
    return measured


def _name(recipe: Recipe, machine: Machine, device: Literal["cpu", "cuda"]) -> str:
    """Return what the speed depends on: the processors or GPUs, and the precision."""
    compute, precision = recipe.compute, recipe.training.precision
    if device == "cuda":
        gpus = ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus))
        return f"{compute.processes} x {gpus}, {precision}"
    instructions = " ".join(machine.instructions)
    return f"{machine.processors} x {machine.processor}, {instructions}, {precision}"


def measure(recipe: Recipe, device: Literal["cpu", "cuda"]) -> Speed:
    """Train models of two sizes for some seconds each."""
    found: list[_Point] = []
    busy, first = False, 0.0
    for depth, rows in _PROBED[device]:
        model = shape(depth)
        probed = probe(_probing(recipe, model, rows, device), _config(model), device, seconds=_SECONDS, layers=depth)
        seconds, loaded = _idle_seconds(probed)
        starting = probed.seconds_to_first_step * seconds / probed.step_seconds
        busy, first = busy or loaded, max(first, starting)
        flops = work(_config(model), probed.training, recipe.compute.processes)
        found.append(_Point(rows * model.context // recipe.compute.processes, flops, seconds))
    small, large = found
    # seconds = per_token x tokens + per_flop x flops, for both; with an equal share of noise neither is negative.
    determinant = small.tokens * large.flops - large.tokens * small.flops
    per_flop = (small.tokens * large.seconds - large.tokens * small.seconds) / determinant
    per_flop = min(max(per_flop, 0.0), large.seconds / large.flops)
    return Speed(
        per_token=(large.seconds - per_flop * large.flops) / large.tokens,
        per_flop=per_flop,
        seconds_to_first_step=first,
        busy=busy,
    )


def _idle_seconds(probed: Probed) -> tuple[float, bool]:
    """Return the duration of a step if nothing else ran, and whether something else did."""
    busy = probed.kind == "cpu" and probed.step_seconds > _BUSY * probed.busy_seconds
    return (probed.busy_seconds if busy else probed.step_seconds), busy


def _config(model: ModelSettings) -> ModelConfig:
    return ModelConfig.from_settings(model, _VOCABULARY, dropout=0.0)


def _probing(recipe: Recipe, model: ModelSettings, rows: int, device: Literal["cpu", "cuda"]) -> Recipe:
    """Return a recipe of the model to probe."""
    training = recipe.training.model_copy(
        update={
            "batch_size": rows * recipe.compute.processes,
            "micro_batch_size": "auto",
            "orthogonalization_steps": 3 if device == "cpu" else 5,
            # A GPU's run that is worth a plan is long enough to compile; on a CPU it gains a twelfth.
            "compile": "always" if device == "cuda" else "never",
            "initialisation": "random",
            "dropout": 0.0,
        }
    )
    return recipe.model_copy(update={"model": model, "training": training})
