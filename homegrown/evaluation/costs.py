"""Costs of predicting held-out text, per document."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homegrown.evaluation.bootstrap import MIN_UNITS, Interval, interval
from homegrown.util.files import parquet_parts, read_parquet

_SEED = 1  # of the resamples between evaluations; the same for every comparison


@dataclass(frozen=True)
class Costs:
    """Cost in nats of predicting each document's tokens, and the bytes of UTF-8 text of these tokens.

    float64, int64 and int64, each [documents]. Every predicted token counts, also the tokens that mark the start and
    end of a document, which add no bytes.
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

    def interval(self, seed: int) -> Interval | None:
        """Return the interval of bits per byte over other documents of the same kind; None for one document."""
        return interval(np.stack([self.nats / math.log(2), self.bytes], axis=1), _ratio, seed)

    def above(self, base: "Costs", seed: int) -> tuple[float, Interval | None]:
        """Return the difference to `base` in bits per byte, and its paired interval; None for one document.

        Each resample takes the same documents for both, so that documents that are hard for both do not hide a small
        difference (Koehn 2004).

        Raises:
            ValueError: the documents differ.
        """
        if not np.array_equal(self.bytes, base.bytes):
            raise ValueError("costs of other documents cannot be paired")
        columns = np.stack([(self.nats - base.nats) / math.log(2), self.bytes], axis=1)
        return self.bits_per_byte - base.bits_per_byte, interval(columns, _ratio, seed)

    def of(self, chosen: npt.NDArray[np.bool_]) -> "Costs":
        """Return the costs of some documents, bool [documents]."""
        return Costs(self.nats[chosen], self.tokens[chosen], self.bytes[chosen])


@dataclass(frozen=True)
class TestDocuments:
    """The costs of one model on test documents with these ids."""

    ids: list[str]
    costs: Costs

    @classmethod
    def read(cls, evaluation: Path, variant: str) -> "TestDocuments | None":
        """Read those of a variant from the folder of an evaluation; None if it has none."""
        if not parquet_parts(evaluation / "documents"):
            return None
        rows = sorted(
            (row["id"], row["nats"], row["tokens"], row["bytes"])
            for row in read_parquet(evaluation / "documents").to_pylist()
            if row["variant"] == variant
        )
        if not rows:
            return None
        ids, nats, tokens, sizes = zip(*rows, strict=True)
        return cls(list(ids), Costs(np.array(nats), np.array(tokens), np.array(sizes)))

    def above(self, base: "TestDocuments") -> tuple[float, Interval | None] | None:
        """Return the difference to `base` as `Costs.above` does; None if the documents differ."""
        if self.ids != base.ids or not np.array_equal(self.costs.bytes, base.costs.bytes):
            return None
        return self.costs.above(base.costs, _SEED)


def in_words(subject: str, other: str, difference: float, interval: Interval | None) -> str:
    """Return a sentence about a difference in bits per byte between two models, and whether it is significant."""
    how = "fewer" if difference < 0 else "more"
    sentence = f"{subject} need {abs(difference):.4f} bits per byte {how} than {other}"
    if interval is None:
        return f"{sentence} (1 document: no interval)."
    ends = f"95%: {interval.low:+.4f} to {interval.high:+.4f}, paired by document"
    if interval.units < MIN_UNITS:
        return f"{sentence} ({ends}); {interval.units} documents are too few to call it significant ({MIN_UNITS})."
    return f"{sentence} ({ends}): {'significant' if interval.is_significant else 'not significant'}."


def by_document(
    nats: npt.NDArray[np.float64],
    targets: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
) -> Costs:
    """Sum the cost `nats` of each target by document.

    `targets` are positions in the split, `sizes` the bytes of their tokens, all [targets]; `starts` are the positions
    of the first token of each document.
    """
    document = np.searchsorted(starts, targets, side="right") - 1
    count = len(starts)
    return Costs(
        np.bincount(document, nats, count).astype(np.float64),
        np.bincount(document, minlength=count).astype(np.int64),
        np.bincount(document, sizes, count).astype(np.int64),
    )


def _ratio(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # A resample without a predicted byte has no figure; percentiles ignore it.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)
