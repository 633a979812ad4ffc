"""Extending a finished run: more steps, or another decay, continue from a checkpoint that both have in common.

The state of training after a step depends on the settings, the inputs and the code, and on `max_steps` only through the
learning rates so far and what `auto` chooses. Where these are equal, the rest of a run continues from a checkpoint of
the other as from one of its own: on a CPU with the same weights, bit for bit, as from step 1.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from homegrown.config.training import TrainingSettings
from homegrown.data.mixture import phase_ends
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.training.job import CHECKPOINTS, EXTENDED
from homegrown.training.schedule import common_steps, stable_steps

_LEARNING_RATE = {"max_steps", "warmup_steps", "schedule", "decay_share", "decay_steps", "final_learning_rate_share"}
"""Settings with an effect on the learning rate only, besides what `auto` makes of `max_steps`."""

Choices = Callable[[TrainingSettings], Mapping[str, str]]
"""What the `auto` of a setting chooses, by the setting's name."""


@dataclass(frozen=True)
class _Finished:
    """A finished run that differs from the wanted one in nothing else, and the step to continue from; 0: none."""

    artifact: Artifact
    training: TrainingSettings
    common: int
    step: int


def extend(store: Store, order: Order, out: Path, choices: Choices, note: Callable[[str], None]) -> None:
    """Copy to `out` the last checkpoint that a finished run in `store` has in common with the run of `order`.

    It does nothing if `out` has a later checkpoint. `note` is called with a message of what is extended, or why a run
    of fewer steps is not.
    """
    from homegrown.training.checkpoints import steps_in

    wanted = TrainingSettings.model_validate(order.settings["settings"])
    made = [artifact for artifact in store.all() if artifact.manifest.stage == order.stage]
    finished = filter(None, (_finished(store, artifact, order, wanted) for artifact in made))
    related = sorted(finished, key=lambda one: (one.step, one.artifact.manifest.version), reverse=True)
    own = max(steps_in(out / CHECKPOINTS), default=0)
    if own and own >= max((one.step for one in related), default=0):
        return
    for one in related:
        if one.step <= own or _obstacle(store, order, one, wanted, choices):
            continue
        (out / EXTENDED).write_text(f"{order.stage}/{one.artifact.path.name}")
        if _copy(one, out / CHECKPOINTS):
            note(f"Training extends {one.artifact.name} and continues after its step {one.step}.")
            return
        (out / EXTENDED).unlink()
    shorter = [one for one in related if _is_extension(one.training, wanted)]
    if shorter and not own:
        nearest = max(shorter, key=lambda one: one.artifact.manifest.version)
        problem = _obstacle(store, order, nearest, wanted, choices) or "its checkpoint is damaged"
        note(f"{nearest.artifact.name} is not extended, training starts from step 1: {problem}.")


def _finished(store: Store, artifact: Artifact, order: Order, wanted: TrainingSettings) -> _Finished | None:
    """Return an artifact whose inputs and settings are those of `order`, but for the learning rate."""
    settings = artifact.manifest.settings
    if artifact.manifest.key == order.key or artifact.manifest.inputs != dict(order.inputs):
        return None
    try:
        training = TrainingSettings.model_validate(settings["settings"])
    except (KeyError, ValidationError):  # of another version
        return None
    if _others(settings) != _others(order.settings) or _kept_equal(training) != _kept_equal(wanted):
        return None
    common = min(common_steps(training, wanted), *_first_phase(store, order, training, wanted))
    return _Finished(artifact, training, common, last_checkpoint(artifact.path / CHECKPOINTS, common))


def _first_phase(store: Store, order: Order, *runs: TrainingSettings) -> list[int]:
    """Return the end of the first phase of the mixture in each run: it depends on the number of steps."""
    packed = next((one for one in store.all() if one.manifest.key == order.inputs.get("pack")), None)
    mixture = packed and packed.manifest.settings.get("settings", {}).get("mixture")
    ends = [phase_ends([phase["share"] for phase in mixture or [{"share": 1}]], run.max_steps)[0] for run in runs]
    return ends if mixture and len(mixture) > 1 else [run.max_steps for run in runs]


def _others(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {group: values for group, values in settings.items() if group != "settings"}


def _kept_equal(training: TrainingSettings) -> dict[str, Any]:
    """Return the settings that must be equal in a run and its extension."""
    return training.model_dump(exclude={*training.unkeyed(), *_LEARNING_RATE, "initialisation", "compile"})


def last_checkpoint(folder: Path, common: int) -> int:
    """Return the last checkpoint up to the step `common` that no later step has influenced; 0: none."""
    from homegrown.training.checkpoints import checkpoint, steps_in

    def is_exact(step: int) -> bool:
        try:
            state = json.loads((checkpoint(folder, step) / "state.json").read_bytes())
            return int(state["spikes"].get("rolled_back_from", 0)) <= common
        except (OSError, ValueError, KeyError, AttributeError):
            return False

    return max((step for step in steps_in(folder) if step <= common and is_exact(step)), default=0)


def _is_extension(finished: TrainingSettings, wanted: TrainingSettings) -> bool:
    """Return whether a user may expect the wanted run to continue the finished one."""
    return finished.schedule == wanted.schedule and (
        finished.max_steps < wanted.max_steps or (wanted.schedule == "wsd" and finished.max_steps != wanted.max_steps)
    )


def _obstacle(store: Store, order: Order, one: _Finished, wanted: TrainingSettings, choices: Choices) -> str | None:
    """Return what keeps the wanted run from extending `one`, and what to do; None: nothing."""
    if not one.step and not stable_steps(wanted):
        return (
            f"with training.schedule {wanted.schedule}, every learning rate depends on max_steps; extend runs of the "
            f"schedule wsd, or continue from its weights with `homegrown adapt {one.artifact.name}`"
        )
    if not one.step:
        return (
            f"it has no checkpoint of the {one.common} steps in common; a run with a higher training.keep_checkpoints "
            f"(its: {one.training.keep_checkpoints}) keeps more of them"
        )
    if one.artifact.manifest.code != order.code:
        return f"the code has changed; continue from its weights with `homegrown adapt {one.artifact.name}`"
    before, now = choices(one.training), choices(wanted)
    for name, value in before.items():
        if now[name] != value:
            return f"training.{name} was {value} there and is {now[name]} here; set it to {value}"
    return "one of its files is damaged" if store.damage(one.artifact) else None


def _copy(one: _Finished, into: Path) -> bool:
    """Copy a checkpoint, and first the best one before it; return whether they are intact."""
    from homegrown.training.checkpoints import best_step, checkpoint, is_intact

    source = one.artifact.path / CHECKPOINTS
    for step in dict.fromkeys([best_step(checkpoint(source, one.step)), one.step]):
        if not step:
            continue
        place = checkpoint(into, step)
        unfinished = place.with_name(f".{place.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            shutil.copytree(checkpoint(source, step), unfinished)
        except (FileNotFoundError, shutil.Error):  # deleted meanwhile
            return False
        if not is_intact(unfinished):
            return False
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
    return True
