"""The loss on held-out text."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from homegrown.config.recipe import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.training.distributed import Worker
from homegrown.training.next_token import Objective
from homegrown.training.precision import Precision
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Validation:
    """Mean loss, in nats per token of text, and bits per byte of text.

    Bits per byte divides the loss of all tokens, ends of documents included, by the bytes of their text: it compares
    models with different tokenizers.
    """

    loss: float
    bits_per_byte: float


class Validator:
    """Measures a model on the same windows of the validation split each time, spread evenly over it."""

    def __init__(
        self,
        split: TokenSplit,
        context: int,
        settings: TrainingSettings,
        token_bytes: np.ndarray,
        worker: Worker,
        precision: Precision,
    ):
        """Choose the windows.

        Raises:
            UserError: the split is empty.
        """
        context = split.fitting(context)
        windows = split.windows(context)
        if not windows:
            raise UserError("The validation split has no text; add text or raise shard.validation_share.")
        wanted = min(windows, math.ceil(settings.validation_tokens / context))
        chosen = np.linspace(0, windows - 1, wanted).round().astype(np.int64)
        self._indices = chosen[worker.rank :: worker.count]
        self._split, self._context = split, context
        self._token_bytes, self._worker, self._precision = token_bytes, worker, precision

    @torch.no_grad()
    def __call__(self, objective: Objective, rows: int) -> Validation:
        """Return the loss of a model, `rows` windows at a time; all workers call it together and get the same."""
        objective.eval()
        loss, nats = torch.zeros((2, 1), dtype=torch.float64, device=self._worker.device)
        terms = text_bytes = 0
        for start in range(0, len(self._indices), rows):
            windows = self._split.read(self._indices[start : start + rows], self._context)
            batch = torch.from_numpy(windows).to(self._worker.device)
            with self._precision.autocast():
                measured = objective.measure(batch)
            loss += measured.loss
            nats += measured.nats
            terms += measured.terms
            text_bytes += int(self._token_bytes[measured.predicted.cpu().numpy()].sum())
        objective.train()
        counts = torch.tensor([terms, text_bytes], dtype=torch.float64, device=self._worker.device)
        total, text, all_terms, all_bytes = self._worker.sum(torch.cat([loss, nats, counts])).tolist()
        return Validation(total / all_terms, text / math.log(2) / max(1, all_bytes))
