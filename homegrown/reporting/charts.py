"""Small pictures for the Prefect UI: bars and histograms as PNG, few enough bytes to lie in a database."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREEN, GREY = "#3b6ea5", "#8a9a5b", "#c9ccd1"
_INK = "#3a3a3a"
_SHADES = 64
_NOTE_PIXELS = 7  # between a bar and its note


def bars(
    names: Sequence[str],
    values: Sequence[float],
    notes: Sequence[str],
    title: str,
    *,
    colour: str = BLUE,
    behind: Sequence[float] | None = None,
) -> bytes:
    """Return horizontal bars from 0, each with its note; `behind` draws longer ones in grey behind them."""
    figure, axes = _figure(1.0 + 0.36 * len(names), title)
    places = range(len(names))
    if behind is not None:
        axes.barh(places, behind, color=GREY, height=0.66)
    axes.barh(places, values, color=colour, height=0.66)
    ends = [max(pair) for pair in zip(values, behind, strict=True)] if behind is not None else list(values)
    for place, end, note in zip(places, ends, notes, strict=True):
        axes.annotate(note, (end, place), xytext=(_NOTE_PIXELS, 0), textcoords="offset pixels", va="center", fontsize=9)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, _limit(figure, axes, ends))
    return _png(figure)


def _limit(figure: "Figure", axes: "Axes", ends: Sequence[float]) -> float:
    """Return how far the axis goes so that the note after each bar's end is inside the picture, whole."""
    figure.draw_without_rendering()
    width = axes.get_window_extent().width
    limits = [1.15 * max([*ends, 0])]
    for end, note in zip(ends, axes.texts, strict=True):
        room = width - note.get_window_extent().width - 1.5 * _NOTE_PIXELS
        limits.append(end * width / max(room, 0.2 * width))
    return max(limits) or 1.0


def histogram(edges: Sequence[float], counts: Sequence[int], title: str, label: str) -> bytes:
    """Return a histogram of `counts` between `edges`, one more of these."""
    figure, axes = _figure(2.6, title)
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(label, color=_INK, fontsize=9)
    return _png(figure)


def smaller(png: bytes) -> bytes:
    """Return the same picture with fewer colours: a third of the bytes, and drawings look the same."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(_SHADES).save(out, "PNG", optimize=True)
    return out.getvalue()


def _figure(height: float, title: str) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return smaller(out.getvalue())
