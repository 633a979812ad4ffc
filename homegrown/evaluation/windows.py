"""The sliding windows in which a model reads held-out text, and the targets of each."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """int64 [windows] each: position of the first input, number of inputs, and number of targets that count, the last.

    The target of the input at position p is the token at p + 1. No two windows count the same target.
    """

    starts: Numbers
    inputs: Numbers
    counted: Numbers

    @property
    def targets(self) -> Numbers:
        """The positions of all targets that count, window by window."""
        ends = np.cumsum(self.counted)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - self.counted, self.counted)
        targets: Numbers = np.repeat(self.starts + self.inputs - self.counted + 1, self.counted) + within
        return targets

    def take(self, chosen: Numbers) -> "Windows":
        """Return some of the windows."""
        return Windows(self.starts[chosen], self.inputs[chosen], self.counted[chosen])


def slide(begins: Numbers, lengths: Numbers, context: int, stride: int) -> Windows:
    """Return the windows over texts that start at `begins` and have `lengths` tokens (int64 [texts] each).

    The first window of a text counts all its targets. Each next window starts `stride` tokens later and counts the at
    most `stride` targets that the previous window did not reach. So every token of a text except the first is predicted
    once, from all previous text or from at least `context` - `stride` + 1 tokens of it.
    """
    predictions = lengths - 1
    count = np.where(predictions > 0, 1 + np.maximum(0, -(-(predictions - context) // stride)), 0)
    text = np.repeat(np.arange(len(begins)), count)
    number = np.arange(len(text)) - np.repeat(np.cumsum(count) - count, count)
    inputs = np.minimum(context, predictions[text] - number * stride)
    counted = np.where(number == 0, inputs, inputs - (context - stride))
    return Windows(begins[text] + number * stride, inputs, counted)


def thin(windows: Windows, most_targets: int | None, stride: int) -> Windows:
    """Return windows spread evenly over the text with about `most_targets` targets; all windows for None."""
    if most_targets is None or windows.counted.sum() <= most_targets:
        return windows
    count = min(len(windows.starts), math.ceil(most_targets / stride))
    return windows.take(np.linspace(0, len(windows.starts) - 1, count).round().astype(np.int64))
