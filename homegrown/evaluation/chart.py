"""The charts of an evaluation: how well each model predicts at what cost, and how much it memorized."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from homegrown.evaluation.results import Result
from homegrown.reporting import charts

_COLORS = {"weights": charts.BLUE, "base": charts.PURPLE, "previous": charts.VERMILION, "baseline": charts.GREY}


def draw_models(results: Sequence[Result]) -> bytes:
    """Return a PNG with bars for each model: bits per byte with its interval, tokens per second, and megabytes."""
    shown = [row for row in results if row.bits_per_byte is not None]
    figure = charts.figure(11, 1.1 + 0.36 * len(shown))
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[2.4, 1, 1])
    places = range(len(shown))
    bits = [row.bits_per_byte or 0.0 for row in shown]
    ends = [row.bits_per_byte_high or row.bits_per_byte or 0.0 for row in shown]
    left.barh(places, bits, color=[_COLORS[row.kind] for row in shown], height=0.65)
    for place, row, end in zip(places, shown, ends, strict=True):
        if row.bits_per_byte_low is not None:
            left.plot([row.bits_per_byte_low, end], [place, place], color=charts.INK, linewidth=1.2)
        left.annotate(f"{row.bits_per_byte:.4f}", (end, place), **_NEXT_TO)
    _titled(left, "Bits per byte of held-out text (less is better)")
    for axes, values, title in (
        (middle, [row.tokens_per_second or 0.0 for row in shown], "Tokens per second"),
        (right, [row.disk_megabytes or 0.0 for row in shown], "Megabytes on disk"),
    ):
        axes.barh(places, values, color=charts.GREEN, height=0.65)
        for place, value in zip(places, values, strict=True):
            if value:
                axes.annotate(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", (value, place), **_NEXT_TO)
        _titled(axes, title)
    left.set_yticks(places, [row.variant for row in shown])
    left.invert_yaxis()
    return charts.png(figure)


def draw_memorization(lengths: Mapping[str, Sequence[int]]) -> bytes:
    """Return a PNG: the share of texts with a memorized run of at least so many tokens, a line for each name.

    The last name, the reference, is drawn dashed.
    """
    figure = charts.figure(9, 3)
    axes = figure.subplots()
    longest = max(1, *(max(values, default=0) for values in lengths.values()))
    for number, (name, values) in enumerate(lengths.items()):
        last = number == len(lengths) - 1
        reached = [100 * float(np.mean(np.array(values) >= tokens)) for tokens in range(longest + 2)]
        color, _, line = (charts.INK, "", "--") if last else charts.series(number)
        axes.step(range(longest + 2), reached, where="mid", label=name, linewidth=1.6, color=color, linestyle=line)
    axes.set_xlim(0, longest + 1)
    axes.set_ylim(0, 102)
    axes.set_xlabel("consecutive tokens found in a training document")
    axes.set_ylabel("% of texts")
    axes.legend(frameon=False, fontsize=9)
    _titled(axes, "Share of texts with a memorized run of at least so many tokens")
    return charts.png(figure)


_NEXT_TO = {
    "xytext": (5, 0),
    "textcoords": "offset points",
    "va": "center",
    "fontsize": 9,
    "color": charts.INK,
}


def _titled(axes: Axes, title: str) -> None:
    charts.style(axes, title)
    axes.margins(x=0.2)
