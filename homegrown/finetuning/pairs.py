"""The loss of DPO (Rafailov et al. 2023, equation 7) on rows of pairs, chosen and rejected answers by turns."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from homegrown.data.rows import NO_TARGET, parts
from homegrown.model.loss import chunk_tokens
from homegrown.model.transformer import Transformer
from homegrown.training.next_token import Measured, Objective


@dataclass(frozen=True)
class AnswerNats:
    """The answers in windows, in order: `sums`, -log p of each in nats, float32 [answers].

    For each trained token: `answer`, the number of its answer, and `targets`, both int64 [tokens].
    """

    sums: Tensor
    answer: Tensor
    targets: Tensor


def answer_nats(model: Transformer, windows: Tensor) -> AnswerNats:
    """Return -log p of each answer in int64 `windows` [R, 3 or 4, T]; only logits of trained tokens are computed."""
    inputs, targets, starts = parts(windows)
    assert starts is not None
    trained = targets != NO_TARGET
    states, wanted = model.hidden_states(inputs, starts=starts)[trained], targets[trained]
    place = torch.arange(len(windows), device=windows.device)[:, None] * windows.shape[-1] + starts
    _, answer = torch.unique(place[trained], return_inverse=True)
    size = chunk_tokens(windows.device.type)
    chunks = [
        checkpoint(
            _nats,
            states[start : start + size],
            model.output_weight,
            model.output_bias,
            wanted[start : start + size],
            use_reentrant=False,
        )
        for start in range(0, len(wanted), size)
    ]
    count = int(answer.max()) + 1 if len(answer) else 0
    sums = torch.zeros(count, device=windows.device)
    if chunks:
        sums = sums.index_add(0, answer, torch.cat(chunks))
    return AnswerNats(sums, answer, wanted)


def _nats(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, weight, bias).float(), targets, reduction="none")


class PreferencePairs(Objective):
    """-log sigmoid(beta * margin), plus `supervised` times -log p of the chosen answer per token; summed over pairs.

    The margin is by how much more than the reference the model prefers the chosen answer: log p(chosen) - log
    p(rejected), less the same of the reference. Windows [R, 4, T] hold the reference's log p of each answer.
    """

    def __init__(self, model: Transformer, beta: float, supervised: float = 0.0):
        super().__init__(model)
        self._beta, self._supervised = beta, supervised

    def forward(self, windows: Tensor) -> Tensor:
        """See `Objective`."""
        found = answer_nats(self.model, windows)
        return self._loss(found, margins(found, windows)) + 0 * found.sums.sum()  # a graph without a pair too

    def measure(self, windows: Tensor) -> Measured:
        """See `Objective`; the text is that of the chosen answers."""
        found = answer_nats(self.model, windows)
        pairs = margins(found, windows)
        chosen = found.targets[found.answer % 2 == 0]
        return Measured(self._loss(found, pairs), len(pairs), found.sums[0::2].sum(), chosen)

    def count(self, windows: Tensor) -> Tensor | None:
        """See `Objective`: the pairs."""
        _, targets, starts = parts(windows)
        assert starts is not None
        place = torch.arange(len(windows), device=windows.device)[:, None] * windows.shape[-1] + starts
        return torch.tensor(len(torch.unique(place[targets != NO_TARGET])) // 2, device=windows.device)

    def _loss(self, found: AnswerNats, pairs: Tensor) -> Tensor:
        loss = -F.logsigmoid(self._beta * pairs).sum()
        if self._supervised:
            lengths = torch.bincount(found.answer, minlength=len(found.sums))
            loss = loss + self._supervised * (found.sums / lengths)[0 : 2 * len(pairs) : 2].sum()
        return loss


def margins(found: AnswerNats, windows: Tensor) -> Tensor:
    """Return the margin of each pair in windows, float32 [pairs]."""
    _, targets, _ = parts(windows)
    values = windows[:, 3][targets != NO_TARGET].view(torch.float64)
    reference = torch.zeros(len(found.sums), dtype=torch.float64, device=windows.device)
    reference[found.answer] = values
    ratios = -found.sums - reference.float()
    pairs = len(ratios) // 2
    return ratios[0 : 2 * pairs : 2] - ratios[1 : 2 * pairs : 2]
