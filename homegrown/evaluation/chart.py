"""The pictures of an evaluation: how well each model predicts at what cost, and what of its texts is known."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.evaluation.results import Result

_COLOURS = {"weights": "#3b6ea5", "previous": "#7ba3c9", "baseline": "#b4b8be"}
_COST = "#8a9a5b"
_LINES = ("#3b6ea5", "#c4532f", "#8a9a5b", "#7d5ba6", "#c9a227", "#3c9d9b")


def draw_models(results: Sequence[Result]) -> bytes:
    """Return a PNG with bars for each model: bits per byte with its interval, tokens per second, and megabytes."""
    shown = [row for row in results if row.bits_per_byte is not None]
    figure = Figure(figsize=(11, 1.1 + 0.36 * len(shown)), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[2.4, 1, 1])
    places = range(len(shown))
    bits = [row.bits_per_byte or 0.0 for row in shown]
    ends = [row.bits_per_byte_high or row.bits_per_byte or 0.0 for row in shown]
    left.barh(places, bits, color=[_COLOURS[row.kind] for row in shown], height=0.65)
    for place, row, end in zip(places, shown, ends, strict=True):
        if row.bits_per_byte_low is not None:
            left.plot([row.bits_per_byte_low, end], [place, place], color="#222222", linewidth=1.2)
        left.annotate(f"{row.bits_per_byte:.4f}", (end, place), **_NEXT_TO)
    _titled(left, "Bits per byte of held-out text (less is better)")
    for axes, values, title in (
        (middle, [row.tokens_per_second or 0.0 for row in shown], "Tokens per second"),
        (right, [row.disk_megabytes or 0.0 for row in shown], "Megabytes on disk"),
    ):
        axes.barh(places, values, color=_COST, height=0.65)
        for place, value in zip(places, values, strict=True):
            if value:
                axes.annotate(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", (value, place), **_NEXT_TO)
        _titled(axes, title)
    left.set_yticks(places, [row.variant for row in shown])
    left.invert_yaxis()
    return _png(figure)


def draw_memorised(lengths: Mapping[str, Sequence[int]]) -> bytes:
    """Return a PNG: the share of texts whose longest run of known tokens is at least so long, a line for each name.

    The last name, the base, is drawn dashed.
    """
    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    axes = figure.subplots()
    longest = max(1, *(max(values, default=0) for values in lengths.values()))
    for number, (name, values) in enumerate(lengths.items()):
        last = number == len(lengths) - 1
        reached = [100 * float(np.mean(np.array(values) >= tokens)) for tokens in range(longest + 2)]
        colour, line = ("#222222", "--") if last else (_LINES[number % len(_LINES)], "-")
        axes.step(range(longest + 2), reached, where="mid", label=name, linewidth=1.6, color=colour, linestyle=line)
    axes.set_xlim(0, longest + 1)
    axes.set_ylim(0, 102)
    axes.set_xlabel("tokens in a row that stand in a training document", fontsize=9)
    axes.set_ylabel("% of texts", fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    _titled(axes, "How many texts have a run of known tokens at least so long")
    return _png(figure)


_NEXT_TO = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _png(figure: Figure) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
