"""What a training minimizes: an objective as a module, and the prediction of the next token."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from homegrown.data.rows import NO_TARGET, parts
from homegrown.model.transformer import Transformer


class Objective(nn.Module, ABC):
    """What a training minimizes, as a module: workers exchange gradients and weights around its forward pass."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, windows: Tensor) -> Tensor:
        """Return the summed loss, a scalar, of int64 `windows` [R, T + 1] or [R, 3 or 4, T]."""

    @abstractmethod
    def measure(self, windows: Tensor) -> "Measured":
        """Return the loss of windows with what it is a mean over, and that of their text."""

    @abstractmethod
    def count(self, windows: Tensor) -> Tensor | None:
        """Return the number of terms of that sum, a scalar; None: one for each place of the windows."""


@dataclass(frozen=True)
class Measured:
    """Sums over windows: `loss` over `terms`, and the nats of the text whose tokens are `predicted`, int64 [tokens]."""

    loss: Tensor
    terms: int
    nats: Tensor
    predicted: Tensor


class NextToken(Objective):
    """Prediction of the next token; the loss is in nats."""

    def forward(self, windows: Tensor) -> Tensor:
        """See `Objective`."""
        return self.model.loss(*parts(windows))

    def measure(self, windows: Tensor) -> Measured:
        """See `Objective`."""
        # Not self(windows): FSDP would exchange weights around it, though each worker measures on its own.
        nats, (_, targets, _) = self.forward(windows), parts(windows)
        predicted = targets[targets != NO_TARGET]
        return Measured(nats, len(predicted), nats, predicted)

    def count(self, windows: Tensor) -> Tensor | None:
        """See `Objective`: the tokens that the windows predict."""
        _, targets, starts = parts(windows)
        return None if starts is None else (targets != NO_TARGET).sum()
