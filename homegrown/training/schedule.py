"""The learning rate of each step, and how many first steps two runs have in common."""

import math
from collections.abc import Iterable

from homegrown.config.training import TrainingSettings


def lr_share(step: int, settings: TrainingSettings) -> float:
    """Return the share of the peak learning rate of optimizer step `step` (from 1 to `max_steps`).

    It rises linearly over `warmup_steps` to 1. Then it decays as a half cosine (Loshchilov and Hutter 2017) or
    linearly, or stays at 1 and decays linearly over the last steps (Hu et al. 2024, MiniCPM; the linear decay: Hägele
    et al. 2024). It would reach its final share one step after `max_steps`: a last step at rate 0 would be wasted.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    left = min(1.0, (settings.max_steps + 1 - step) / (_decay_steps(settings) + 1))
    if settings.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    floor = settings.final_learning_rate_share
    return floor + (1 - floor) * left


def _decay_steps(settings: TrainingSettings) -> int:
    most = settings.max_steps - settings.warmup_steps
    if settings.schedule != "wsd":
        return most
    return min(most, settings.decay_steps or math.ceil(settings.decay_share * settings.max_steps))


def stable_steps(settings: TrainingSettings) -> int:
    """Return the steps before the decay of `wsd`, after which a longer run can continue; 0 for other schedules."""
    return settings.max_steps - _decay_steps(settings) if settings.schedule == "wsd" else 0


def common_steps(one: TrainingSettings, other: TrainingSettings) -> int:
    """Return the number of steps from the first on whose learning rates are equal in both."""
    most = min(one.max_steps, other.max_steps)
    return next((step for step in range(most) if lr_share(step + 1, one) != lr_share(step + 1, other)), most)


def extendable(steps: Iterable[int], settings: TrainingSettings) -> list[int]:
    """Return those of the checkpoints `steps` to keep for longer runs and other decays.

    They are the latest of the stable phase of `wsd`: `keep_checkpoints`, less the last checkpoint of all.
    """
    stable = sorted(step for step in steps if step <= stable_steps(settings))
    return stable[max(0, len(stable) - settings.keep_checkpoints + 1) :]
