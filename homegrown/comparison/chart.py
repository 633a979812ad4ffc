"""The picture of a comparison: the losses of all runs in one graph, and bars of the figures that matter most."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import HashableList

from homegrown.comparison.compare import Comparison, Row
from homegrown.comparison.tables import headlines, written

_MEANS = 200
_VIEW = 0.97
_TEN = 10
_BAR_INCHES = 0.24

Values = npt.NDArray[np.float64]


def draw(comparison: Comparison) -> bytes | None:
    """Return a PNG; None when the runs have neither curves nor figures to show.

    A curve is the mean loss of the batches in each of at most 200 stretches of a run; dots are the validation loss. The
    base is the first colour and, in each group of bars, the first bar. Bars begin at 0.
    """
    rows = headlines(comparison)
    curves = any(curve is not None for curve in comparison.curves)
    if not rows and not curves:
        return None
    bars = (0.7 + _BAR_INCHES * len(comparison.runs)) * len(rows)
    if curves:
        figure = Figure(figsize=(11, max(5.0, bars)), dpi=110, layout="constrained")
        places: list[HashableList[str]] = [["losses", row.metric] for row in rows] or [["losses"]]
        panels = figure.subplot_mosaic(places, width_ratios=[2, 1][: len(places[0])])
        _draw_losses(panels["losses"], comparison)
    else:
        figure = Figure(figsize=(9, bars + 0.4), dpi=110, layout="constrained")
        panels = figure.subplot_mosaic([[row.metric] for row in rows])
    for row in rows:
        _draw_bars(panels[row.metric], comparison, row)
    picture = BytesIO()
    figure.savefig(picture, format="png", facecolor="white", metadata={"Software": None})
    return picture.getvalue()


def _draw_losses(panel: Axes, comparison: Comparison) -> None:
    low, high = [], []
    for run, curve, colour in zip(comparison.runs, comparison.curves, _colours(len(comparison.runs)), strict=True):
        if curve is None:
            continue
        steps, losses = _means(curve)
        panel.plot(steps, losses, color=colour, linewidth=1.6, label=run.label)
        validated = curve.filter(pa.compute.is_valid(curve["validation_loss"]))
        at, held_out = (_column(validated, name) for name in ("step", "validation_loss"))
        panel.plot(at, held_out, color=colour, linewidth=0, marker="o", markersize=4)
        seen = np.concatenate([losses[np.isfinite(losses)], held_out])
        if len(seen):
            low.append(seen.min())
            high.append(np.quantile(seen, _VIEW))
    if low:
        margin = 0.05 * (max(high) - min(low) or 1)
        panel.set_ylim(min(low) - margin, max(high) + margin)
    panel.set_title("Loss, nats per token: training (lines), validation (dots)", fontsize=10, loc="left")
    panel.set_xlabel("step", fontsize=9)
    panel.legend(frameon=False, fontsize=9)
    _tidy(panel)


def _draw_bars(panel: Axes, comparison: Comparison, row: Row) -> None:
    values = [float(value) if isinstance(value, int | float) else 0.0 for value in row.values]
    bars = panel.barh(range(len(values)), values, color=_colours(len(values)), height=0.7)
    panel.bar_label(bars, [written(value) for value in row.values], padding=4, fontsize=8)
    panel.set_yticks(range(len(values)), [run.letter for run in comparison.runs])
    panel.invert_yaxis()
    panel.set_xlim(0, 1.25 * max([value for value in values if np.isfinite(value)], default=0) or 1)
    panel.set_title(row.metric.replace("_", " "), fontsize=9, loc="left")
    _tidy(panel)
    panel.tick_params(axis="x", labelbottom=False, length=0)
    panel.grid(visible=False)


def _tidy(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.18)


def _colours(count: int) -> Sequence[tuple[float, float, float, float]]:
    """Return well-told-apart colours for a few runs, and shades in their order for many."""
    return [
        colormaps["tab10"](number) if count <= _TEN else colormaps["viridis"](number / count) for number in range(count)
    ]


def _means(curve: pa.Table) -> tuple[Values, Values]:
    """Return the mean step and the mean loss of each stretch of a run, over the steps whose loss is a number."""
    steps, losses = _column(curve, "step"), _column(curve, "loss")
    steps, losses = steps[np.isfinite(losses)], losses[np.isfinite(losses)]
    count = max(1, min(_MEANS, len(steps) // 4))
    parts = [
        part for part in zip(np.array_split(steps, count), np.array_split(losses, count), strict=True) if len(part[0])
    ]
    return np.array([part.mean() for part, _ in parts]), np.array([part.mean() for _, part in parts])


def _column(table: pa.Table, name: str) -> Values:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
