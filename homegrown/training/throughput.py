"""What is measured beside the loss: speed, model FLOPs utilisation, memory, time left."""

import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from homegrown.config.recipe import TrainingSettings
from homegrown.training.metrics import StepMetrics
from homegrown.training.spikes import SpikeRule
from homegrown.util import devices
from homegrown.util.progress import Metric

Work = Literal["update", "validation", "samples", "checkpoint"]

_RECENT = 50


class Watch:
    """Times the loop's work; the speed is that of the last update, the time left follows from all kinds of work."""

    def __init__(self, settings: TrainingSettings, batch_tokens: int, flops_per_token: int, peak_flops: float):
        """Measure against `peak_flops`, the floating-point operations per second of all workers' devices together."""
        self._batch_tokens, self._peak_tokens = batch_tokens, peak_flops / flops_per_token
        self._every: dict[Work, int] = {
            "update": 1,
            "validation": settings.validate_every,
            "samples": settings.sample_every,
            "checkpoint": settings.checkpoint_every,
        }
        self._max_steps = settings.max_steps
        self._seconds: dict[Work, deque[float]] = {work: deque(maxlen=_RECENT) for work in self._every}

    @contextmanager
    def timing(self, work: Work) -> Iterator[None]:
        """Count the block's time as that of one piece of `work`."""
        began = time.perf_counter()
        yield
        self._seconds[work].append(time.perf_counter() - began)

    @property
    def tokens_per_second(self) -> float:
        """The speed of the last update, over all workers."""
        return self._batch_tokens / self._seconds["update"][-1]

    @property
    def model_flops_utilisation(self) -> float:
        """The share of the measured peak that the last update's speed needs (Chowdhery et al. 2022, PaLM, appendix B).

        Recomputed activations and whatever else is not asked for by the model count as nothing.
        """
        return self.tokens_per_second / self._peak_tokens

    def seconds_left(self, step: int) -> float:
        """Return how long the steps after `step` will take, with their validations, samples and checkpoints."""
        left = {work: self._max_steps // every - step // every for work, every in self._every.items()}
        # The median, so that a first step that compiles does not promise hours.
        return sum(statistics.median_low(self._seconds[work]) * left[work] for work in left if self._seconds[work])

    def news(self, metrics: Sequence[StepMetrics], spikes: SpikeRule) -> dict[str, Metric]:
        """Return what is worth saying of the last step, the most important first."""
        last = metrics[-1]
        said: dict[str, Metric] = {"loss": last.loss}
        validated = (row.validation_bits_per_byte for row in reversed(metrics))
        if bits := next((value for value in validated if value is not None), None):
            said["validation_bits_per_byte"] = bits
        said["tokens_per_second"] = last.tokens_per_second
        said["model_flops_utilisation"] = last.model_flops_utilisation
        if spikes.skipped_steps:
            said |= {"skipped_steps": spikes.skipped_steps, "rolled_back_steps": spikes.rolled_back_steps}
        said["learning_rate"] = last.learning_rate
        said["seconds_left"] = self.seconds_left(last.step)
        return said


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held so far: on its GPU, or else resident in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return devices.peak_memory()
