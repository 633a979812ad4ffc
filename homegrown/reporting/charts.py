"""Charts as PNG in one style: one palette for any color vision, on white in light and dark pages."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Matplotlib takes long to import, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, PURPLE, GREEN = "#0072b2", "#d55e00", "#cc79a7", "#009e73"
"""The colors of Okabe and Ito (2008) that have a contrast of at least 3:1 on white."""
INK, GREY, PAPER = "#1b1f24", "#8a8f96", "#ffffff"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, INK)
MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("-", "--", ":")
_SHADES = 256
_NOTE_PIXELS = 7  # between a bar and its note


def series(number: int) -> tuple[str, str, str]:
    """Return color, marker and line style of a series; the first fifteen differ with and without a line."""
    around, place = divmod(number, len(SERIES))
    return SERIES[place], MARKERS[(place + around) % len(MARKERS)], _DASHES[around % len(_DASHES)]


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=110, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(made)
    return made


def style(axes: "Axes", title: str) -> None:
    """Give axes the common style and a title."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9, color=INK)


def png(made: "Figure") -> bytes:
    """Return the figure as PNG, the same bytes each time."""
    out = io.BytesIO()
    made.savefig(out, format="png", metadata={"Software": None})
    return smaller(out.getvalue())


def smaller(content: bytes) -> bytes:
    """Return a PNG with fewer colors, a third of its bytes; drawings look the same."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(_SHADES).save(out, "PNG", optimize=True)
    return out.getvalue()


def bars(
    names: Sequence[str],
    values: Sequence[float],
    notes: Sequence[str],
    title: str,
    *,
    color: str = BLUE,
    behind: Sequence[float] | None = None,
) -> bytes:
    """Return horizontal bars from 0, each with its note; `behind` draws longer gray bars behind them."""
    made = figure(9, 1.0 + 0.36 * len(names))
    axes = made.add_subplot()
    places = range(len(names))
    if behind is not None:
        axes.barh(places, behind, color=GREY, height=0.66)
    axes.barh(places, values, color=color, height=0.66)
    ends = [max(pair) for pair in zip(values, behind, strict=True)] if behind is not None else list(values)
    for place, end, note in zip(places, ends, notes, strict=True):
        axes.annotate(
            note,
            (end, place),
            xytext=(_NOTE_PIXELS, 0),
            textcoords="offset pixels",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    style(axes, title)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(0, _limit(made, axes, ends))
    return png(made)


def _limit(made: "Figure", axes: "Axes", ends: Sequence[float]) -> float:
    """Return the end of the axis at which the note after each bar fits inside the picture."""
    made.draw_without_rendering()
    width = axes.get_window_extent().width
    limits = [1.15 * max([*ends, 0])]
    for end, note in zip(ends, axes.texts, strict=True):
        left = width - note.get_window_extent().width - 1.5 * _NOTE_PIXELS
        limits.append(end * width / max(left, 0.2 * width))
    return max(limits) or 1.0


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    title: str,
    label: str,
    *,
    behind: Sequence[int] | None = None,
    keys: tuple[str, str] = ("", ""),
    logarithmic: bool = False,
) -> bytes:
    """Return a histogram of `counts` between `edges`, one more of these.

    `behind` draws larger gray counts behind them, and `keys` names the two.
    """
    made = figure(9, 2.6)
    axes = made.add_subplot()
    if behind is not None:
        axes.stairs(behind, edges, fill=True, color=GREY, label=keys[1])
    axes.stairs(counts, edges, fill=True, color=BLUE, label=keys[0])
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(lambda number, _: f"{number:,.0f}" if number == int(number) else f"{number:g}")
    axes.set_xlabel(label)
    if behind is not None:
        axes.legend(frameon=False, fontsize=9)
    style(axes, title)
    return png(made)
