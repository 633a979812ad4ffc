"""The learning rate of each step."""

import math

from homegrown.recipe import TrainingSettings


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of optimizer step `step` (from 1 to `max_steps`).

    It rises in a line over `warmup_steps`, reaching the peak at the last of them, then falls along half a cosine
    (Loshchilov and Hutter 2017) or a line, reaching its final share of the peak at `max_steps`.
    """
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    done = (step - settings.warmup_steps) / (settings.max_steps - settings.warmup_steps)
    left = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    floor = settings.final_learning_rate_share
    return settings.learning_rate * (floor + (1 - floor) * left)
