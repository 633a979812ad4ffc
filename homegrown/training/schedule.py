"""The share of the peak learning rate at each step."""

import math

from homegrown.recipe import TrainingSettings


def share(step: int, settings: TrainingSettings) -> float:
    """Return the share of the peak learning rate of optimizer step `step` (from 1 to `max_steps`).

    It rises in a line over `warmup_steps`, reaching 1 at the last of them. Then it falls along half a cosine
    (Loshchilov and Hutter 2017) or a line, or stays at 1 and falls in a line over the last `decay_share` of all steps
    (Hu et al. 2024, MiniCPM; the linear fall: Hägele et al. 2024), reaching its final share at `max_steps`.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    falling = settings.max_steps - settings.warmup_steps
    if settings.schedule == "wsd":
        falling = min(falling, math.ceil(settings.decay_share * settings.max_steps))
    left = min(1.0, (settings.max_steps - step) / falling)
    if settings.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    floor = settings.final_learning_rate_share
    return floor + (1 - floor) * left
