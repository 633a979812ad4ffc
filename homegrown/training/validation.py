"""The loss on held-out text."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.training.distributed import Worker
from homegrown.training.next_token import Objective
from homegrown.training.precision import Precision
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Validation:
    """Mean loss, in nats per token of text, and bits per byte of text.

    Bits per byte divides the loss of all tokens, ends of documents included, by the bytes of their text: it compares
    models with different tokenizers. `by_source` has the bits per byte of each source of a mixture; a window counts for
    the source of its first token.
    """

    loss: float
    bits_per_byte: float
    by_source: dict[str, float] = field(default_factory=dict)


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
        self._sources = list(split.stretches)
        places = chosen if split.context is not None else chosen * context
        ends = [stretch.stop for stretch in split.stretches.values()]
        own = slice(worker.rank, None, worker.count)
        self._indices, self._source_of = chosen[own], np.searchsorted(ends, places, side="right")[own]
        self._split, self._context = split, context
        self._token_bytes, self._worker, self._precision = token_bytes, worker, precision

    @torch.no_grad()
    def __call__(self, objective: Objective, rows: int) -> Validation:
        """Return the loss of a model, `rows` windows at a time; all workers call it together and get the same."""
        objective.eval()
        loss, nats = torch.zeros((2, 1), dtype=torch.float64, device=self._worker.device)
        terms = text_bytes = 0
        by_source = torch.zeros((2, len(self._sources)), dtype=torch.float64)
        for indices, source in self._batches(rows):
            batch = torch.from_numpy(self._split.read(indices, self._context)).to(self._worker.device)
            with self._precision.autocast():
                measured = objective.measure(batch)
            loss += measured.loss
            nats += measured.nats
            terms += measured.terms
            size = int(self._token_bytes[measured.predicted.cpu().numpy()].sum())
            text_bytes += size
            if self._sources:
                by_source[:, source] += torch.tensor([measured.nats.item(), size], dtype=torch.float64)
        objective.train()
        counts = torch.tensor([terms, text_bytes], dtype=torch.float64, device=self._worker.device)
        sums = torch.cat([loss, nats, counts, by_source.flatten().to(self._worker.device)])
        total, text, all_terms, all_bytes, *each = self._worker.sum(sums).tolist()
        figures = zip(self._sources, each[: len(self._sources)], each[len(self._sources) :], strict=True)
        return Validation(
            total / all_terms,
            text / math.log(2) / max(1, all_bytes),
            {name: own / math.log(2) / many for name, own, many in figures if many},
        )

    def _batches(self, rows: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yield windows, at most `rows` and of one source, with the number of the source."""
        for source in np.unique(self._source_of).tolist():
            own = self._indices[self._source_of == source]
            for start in range(0, len(own), rows):
                yield own[start : start + rows], source
