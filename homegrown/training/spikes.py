"""The rule for a loss that spikes or is not finite: which updates are skipped, and when training rolls back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from homegrown.config.training import TrainingSettings
from homegrown.util.errors import UserError

WINDOW = 128
"""Steps to compare with, as in OLMo-core's `SkipStepOptimizer`."""
_ENOUGH = WINDOW // 2
RAISE = 2.0
"""Factor of the threshold after a skipped update whose batch, not the weights, was unusual."""


@dataclass
class _Memory:
    """The state of the rule, which checkpoints keep."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    threshold: float = 1.0
    unusual: bool = False
    in_a_row: int = 0
    skipped_steps: int = 0
    rolled_back_steps: int = 0
    rollbacks: int = 0
    rolled_back_from: int = 0


class SpikeRule:
    """Decides by loss and gradient norm of the batch of all workers, so that all decide alike.

    An update is skipped, its batch used up and the weights unchanged, if one of the two is not finite or lies more than
    `spike_deviations` standard deviations above its mean over the last steps (OLMo-core's `SkipStepOptimizer`: 6 above
    the last 128). Values that are not finite never enter a mean. A loss enters only if its update is taken: a loss that
    stays high remains a spike. A norm enters at most twice as far from the mean as the bound: gradients of a new size
    are usual after a few steps, and one huge norm does not hide the next.

    If the next update is usual again, the skipped batch was unusual and not the weights: `threshold`, which multiplies
    `spike_deviations`, grows by `RAISE`. So rare examples are trained on after a few skips, however rare they are.

    After `rollback_after` skipped updates in a row training returns to a checkpoint and continues with the batches
    after them (Chowdhery et al. 2022, PaLM, section 5.1: from a checkpoint before the spike, skipping 200 to 500
    batches, which do no harm elsewhere).
    """

    def __init__(self, settings: TrainingSettings):
        self._settings = settings
        self._memory = _Memory()
        self._fruitless = False

    @property
    def skipped_steps(self) -> int:
        """The number of skipped updates."""
        return self._memory.skipped_steps

    @property
    def rolled_back_steps(self) -> int:
        """The number of steps undone, which is also that of the batches skipped."""
        return self._memory.rolled_back_steps

    @property
    def rollbacks(self) -> int:
        """The number of returns to a checkpoint."""
        return self._memory.rollbacks

    @property
    def calm(self) -> bool:
        """Whether the last update was taken: only then is a checkpoint good."""
        return self._memory.in_a_row == 0

    @property
    def must_roll_back(self) -> bool:
        """Whether too many updates in a row were skipped."""
        return self._memory.in_a_row >= self._settings.rollback_after

    @property
    def fruitless(self) -> bool:
        """Whether no update was taken since the last rollback: its checkpoint is not good either."""
        return self._fruitless

    def admits(self, loss: float, grad_norm: float) -> bool:
        """Return whether to take the update of a step with this loss and gradient norm, and remember them."""
        memory = self._memory
        _, highest_loss = self._usual(memory.losses)
        mean_norm, highest_norm = self._usual(memory.grad_norms)
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        taken = finite and loss <= highest_loss and grad_norm <= highest_norm
        if math.isfinite(grad_norm):
            capped = min(grad_norm, 2 * highest_norm - mean_norm)
            memory.grad_norms = [*memory.grad_norms, capped][-WINDOW:]
        if taken:
            memory.losses = [*memory.losses, loss][-WINDOW:]
            if memory.unusual:
                memory.threshold *= RAISE
            memory.unusual, memory.in_a_row, self._fruitless = False, 0, False
        else:
            memory.unusual = memory.unusual or finite
            memory.in_a_row += 1
            memory.skipped_steps += 1
        return taken

    def roll_back(self, at: int, to: int, earlier: dict[str, Any]) -> None:
        """Roll back from step `at` to step `to`, whose state was `earlier`; keep the counts.

        Raises:
            UserError: no checkpoint was found (`to` is 0), or training has rolled back too often.
        """
        if not to or self.rollbacks >= self._settings.max_rollbacks:
            settings = self._settings
            why = f"after training.max_rollbacks ({settings.max_rollbacks}) rollbacks" if to else "before a checkpoint"
            raise UserError(
                f"Training diverged {why}: loss or gradient was not finite or spiked in the {self._memory.in_a_row} "
                f"steps up to step {at}; lower training.learning_rate ({settings.learning_rate}), raise "
                f"training.warmup_steps ({settings.warmup_steps}) or, for very uneven text, training.spike_deviations."
            )
        before = self._memory
        self._memory = _Memory(**earlier)
        self._memory.skipped_steps = before.skipped_steps
        self._memory.rolled_back_steps = before.rolled_back_steps + at - to
        self._memory.rollbacks = before.rollbacks + 1
        self._memory.rolled_back_from = max(before.rolled_back_from, at)
        self._fruitless = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the rule, fit for JSON."""
        return asdict(self._memory)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._memory = _Memory(**state)

    def _usual(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the mean and the highest value that is not a spike: infinity before there are enough values."""
        deviations = self._settings.spike_deviations
        if deviations is None or len(values) < _ENOUGH:
            return 0.0, math.inf
        mean = float(np.mean(values))
        return mean, mean + self._memory.threshold * deviations * float(np.std(values, ddof=1))
