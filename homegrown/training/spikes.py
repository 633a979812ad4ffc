"""The rule for a loss that spikes or is no number: which updates are skipped, and when training goes back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from homegrown.config.recipe import TrainingSettings
from homegrown.util.errors import UserError

WINDOW = 128
"""Steps to compare with, as in OLMo-core's `SkipStepOptimizer`."""
_ENOUGH = WINDOW // 2


@dataclass
class _Memory:
    """What the rule remembers, from checkpoint to checkpoint."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    in_a_row: int = 0
    skipped_steps: int = 0
    rolled_back_steps: int = 0
    rollbacks: int = 0


class SpikeRule:
    """Decides by loss and gradient norm, which are those of the whole batch, so that all workers decide alike.

    An update is skipped, its batch used up and the weights untouched, if one of the two is no number or lies more than
    `spike_deviations` standard deviations above its mean over the last steps (OLMo-core's `SkipStepOptimizer`: 6 above
    the last 128). What is no number never enters a mean, and a loss only if its update is taken: so a loss that stays
    high remains a spike. A norm enters at most twice as far from the mean as the bound is: so gradients of a new size
    are the usual ones after a few steps, and one huge norm does not make the rule blind to the next.

    After `rollback_after` skipped updates in a row training goes back to a checkpoint and on with the batches that
    come after them (Chowdhery et al. 2022, PaLM, section 5.1: from a checkpoint before the spike, past 200 to 500
    batches, which do no harm elsewhere).
    """

    def __init__(self, settings: TrainingSettings):
        self._settings = settings
        self._memory = _Memory()
        self._fruitless = False

    @property
    def skipped_steps(self) -> int:
        """How many updates were skipped."""
        return self._memory.skipped_steps

    @property
    def rolled_back_steps(self) -> int:
        """How many steps were undone, which is also how many batches are passed over."""
        return self._memory.rolled_back_steps

    @property
    def rollbacks(self) -> int:
        """How often training went back to a checkpoint."""
        return self._memory.rollbacks

    @property
    def calm(self) -> bool:
        """Whether the last update was taken: only then is a checkpoint one to go back to."""
        return self._memory.in_a_row == 0

    @property
    def must_roll_back(self) -> bool:
        """Whether too many updates in a row were skipped."""
        return self._memory.in_a_row >= self._settings.rollback_after

    @property
    def fruitless(self) -> bool:
        """Whether no update was taken since training last went back, so that that checkpoint is no good either."""
        return self._fruitless

    def admits(self, loss: float, gradient_norm: float) -> bool:
        """Say whether the update of a step with this loss and gradient norm is to be taken, and remember them."""
        memory = self._memory
        _, highest_loss = self._usual(memory.losses)
        mean_norm, highest_norm = self._usual(memory.gradient_norms)
        numbers = math.isfinite(loss) and math.isfinite(gradient_norm)
        taken = numbers and loss <= highest_loss and gradient_norm <= highest_norm
        if math.isfinite(gradient_norm):
            capped = min(gradient_norm, 2 * highest_norm - mean_norm)
            memory.gradient_norms = [*memory.gradient_norms, capped][-WINDOW:]
        if taken:
            memory.losses = [*memory.losses, loss][-WINDOW:]
            memory.in_a_row, self._fruitless = 0, False
        else:
            memory.in_a_row += 1
            memory.skipped_steps += 1
        return taken

    def roll_back(self, at: int, to: int, earlier: dict[str, Any]) -> None:
        """Take over what was remembered `earlier`, at step `to`, and go on counting; training has come to step `at`.

        Raises:
            UserError: there is no checkpoint (`to` is 0), or training has gone back too often.
        """
        if not to or self.rollbacks >= self._settings.max_rollbacks:
            most = self._settings.max_rollbacks
            why = (
                f"although training went back as often as training.max_rollbacks ({most}) allows"
                if to
                else "and no checkpoint is there yet to go back to"
            )
            raise UserError(
                f"The loss or the gradient was no number or far too high in each of the last {self._memory.in_a_row} "
                f"steps up to step {at}, {why}; lower training.learning_rate ({self._settings.learning_rate}), raise "
                f"training.warmup_steps ({self._settings.warmup_steps}) or, if this text is so uneven, raise "
                "training.spike_deviations."
            )
        before = self._memory
        self._memory = _Memory(**earlier)
        self._memory.skipped_steps = before.skipped_steps
        self._memory.rolled_back_steps = before.rolled_back_steps + at - to
        self._memory.rollbacks = before.rollbacks + 1
        self._fruitless = True

    def state(self) -> dict[str, Any]:
        """Return what the rule remembers, fit for JSON."""
        return asdict(self._memory)

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self._memory = _Memory(**state)

    def _usual(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the mean and the highest value that is no spike: infinity until there is enough to compare with."""
        if self._settings.spike_deviations is None or len(values) < _ENOUGH:
            return 0.0, math.inf
        mean = float(np.mean(values))
        return mean, mean + self._settings.spike_deviations * float(np.std(values, ddof=1))
