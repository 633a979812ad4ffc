"""Speed, model FLOPs utilization (MFU), memory and time left of a training."""

import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_RECENT = 50


class Watch:
    """Times the loop's work: the last update gives the speed, all recent work the time left."""

    def __init__(
        self, max_steps: int, every: Mapping[str, int], batch_tokens: int, flops_per_token: int, peak_flops: float
    ):
        """Measure updates and the other kinds of work, each due after `every` so many steps.

        `peak_flops` is the peak of the devices of all workers together, in operations per second.
        """
        self._batch_tokens, self._peak_tokens = batch_tokens, peak_flops / flops_per_token
        self._max_steps, self._every = max_steps, {"update": 1, **every}
        self._seconds: dict[str, deque[float]] = {work: deque(maxlen=_RECENT) for work in self._every}

    @contextmanager
    def timing(self, work: str) -> Iterator[None]:
        """Measure the block as one piece of `work`."""
        began = time.perf_counter()
        yield
        self._seconds[work].append(time.perf_counter() - began)

    @property
    def tokens_per_second(self) -> float:
        """The speed of the last update, over all workers."""
        return self._batch_tokens / self._seconds["update"][-1]

    @property
    def mfu(self) -> float:
        """The share of the measured peak that the last update's speed needs (Chowdhery et al. 2022, PaLM, appendix B).

        Operations that the model itself does not need, such as recomputed activations, do not count.
        """
        return self.tokens_per_second / self._peak_tokens

    def seconds_left(self, step: int) -> float:
        """Return the estimated time of the steps after `step`, with validations, samples and checkpoints."""
        left = {work: self._max_steps // every - step // every for work, every in self._every.items()}
        # The median, so that a first step that compiles does not promise hours.
        return sum(statistics.median_low(self._seconds[work]) * left[work] for work in left if self._seconds[work])
