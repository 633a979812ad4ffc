"""What it costs to predict held-out text, document by document."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homegrown.evaluation.bootstrap import Interval, interval


@dataclass(frozen=True)
class Costs:
    """Cost in nats of predicting each document's tokens, and how many bytes of UTF-8 text these stand for.

    float64, int64 and int64, each [documents]. Every predicted token counts, the marks at the starts and ends of
    documents too, which add no bytes.
    """

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        """exp of the mean cost of a token; comparable only between models with the same tokenizer."""
        return math.exp(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode a byte of text; comparable whatever the tokenizer."""
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    def interval(self, seed: int) -> Interval:
        """Return where bits per byte lies if other documents of the same kind had been held out."""
        return interval(np.stack([self.nats / math.log(2), self.bytes], axis=1), _ratio, seed)

    def above(self, base: "Costs", seed: int) -> tuple[float, Interval]:
        """Return how many bits per byte this is above `base`, and the paired interval over the same documents.

        Each resample takes the same documents for both, so that what makes a document hard for both does not hide a
        small difference (Koehn 2004).

        Raises:
            ValueError: they are not of the same documents.
        """
        if not np.array_equal(self.bytes, base.bytes):
            raise ValueError("costs of other documents cannot be paired")
        columns = np.stack([(self.nats - base.nats) / math.log(2), self.bytes], axis=1)
        return self.bits_per_byte - base.bits_per_byte, interval(columns, _ratio, seed)

    def of(self, chosen: npt.NDArray[np.bool_]) -> "Costs":
        """Return the costs of some documents, bool [documents]."""
        return Costs(self.nats[chosen], self.tokens[chosen], self.bytes[chosen])


def by_document(
    nats: npt.NDArray[np.float64],
    targets: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
) -> Costs:
    """Sum the cost `nats` of each target by document.

    `targets` are places in the split, `sizes` the bytes that their tokens stand for, all [targets]; `starts` says where
    each document starts.
    """
    document = np.searchsorted(starts, targets, side="right") - 1
    count = len(starts)
    return Costs(
        np.bincount(document, nats, count).astype(np.float64),
        np.bincount(document, minlength=count).astype(np.int64),
        np.bincount(document, sizes, count).astype(np.int64),
    )


def _ratio(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Of documents without a predicted byte alone there is no figure; they weigh nothing in a percentile.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)
