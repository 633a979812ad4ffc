"""The chart of a comparison: the losses of all runs, and bars of the main metrics."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.typing import HashableList

from homegrown.comparison.compare import Comparison, Row
from homegrown.comparison.tables import headlines, written
from homegrown.reporting import charts

_MEANS = 200
_VIEW = 0.97
_BAR_INCHES = 0.24

Values = npt.NDArray[np.float64]


def draw(comparison: Comparison) -> bytes | None:
    """Return a PNG; None if the runs have neither curves nor metrics.

    A curve is the mean training loss in each of at most 200 parts of a run; its points are the validation loss. The
    base is the first curve and the first bar. Bars start at 0.
    """
    rows = headlines(comparison)
    curves = any(curve is not None for curve in comparison.curves)
    if not rows and not curves:
        return None
    bars = (0.7 + _BAR_INCHES * len(comparison.runs)) * len(rows)
    if curves:
        figure = charts.figure(11, max(5.0, bars))
        places: list[HashableList[str]] = [["losses", row.metric] for row in rows] or [["losses"]]
        panels = figure.subplot_mosaic(places, width_ratios=[2, 1][: len(places[0])])
        _draw_losses(panels["losses"], comparison)
    else:
        figure = charts.figure(9, bars + 0.4)
        panels = figure.subplot_mosaic([[row.metric] for row in rows])
    for row in rows:
        _draw_bars(panels[row.metric], comparison, row)
    return charts.png(figure)


def _draw_losses(panel: Axes, comparison: Comparison) -> None:
    low, high = [], []
    for number, (run, curve) in enumerate(zip(comparison.runs, comparison.curves, strict=True)):
        if curve is None:
            continue
        color, marker, line = charts.series(number)
        steps, losses = _means(curve)
        panel.plot(steps, losses, color=color, linestyle=line, linewidth=1.6, label=run.label)
        validated = curve.filter(pa.compute.is_valid(curve["validation_loss"]))
        at, held_out = (_column(validated, name) for name in ("step", "validation_loss"))
        panel.plot(at, held_out, color=color, linewidth=0, marker=marker, markersize=5)
        seen = np.concatenate([losses[np.isfinite(losses)], held_out])
        if len(seen):
            low.append(seen.min())
            high.append(np.quantile(seen, _VIEW))
    if low:
        margin = 0.05 * (max(high) - min(low) or 1)
        panel.set_ylim(min(low) - margin, max(high) + margin)
    panel.set_xlabel("step")
    panel.legend(frameon=False, fontsize=9)
    panel.grid(alpha=0.18)
    charts.style(panel, "Loss in nats per token: training (lines), validation (points)")


def _draw_bars(panel: Axes, comparison: Comparison, row: Row) -> None:
    values = [float(value) if isinstance(value, int | float) else 0.0 for value in row.values]
    colors = [charts.series(number)[0] for number in range(len(values))]
    bars = panel.barh(range(len(values)), values, color=colors, height=0.7)
    panel.bar_label(bars, [written(value) for value in row.values], padding=4, fontsize=8, color=charts.INK)
    panel.set_yticks(range(len(values)), [run.letter for run in comparison.runs])
    panel.invert_yaxis()
    panel.set_xlim(0, 1.25 * max([value for value in values if np.isfinite(value)], default=0) or 1)
    charts.style(panel, row.metric.replace("_", " "))
    panel.tick_params(axis="x", labelbottom=False, length=0)


def _means(curve: pa.Table) -> tuple[Values, Values]:
    """Return the mean step and the mean loss of each part of a run, over the steps with a finite loss."""
    steps, losses = _column(curve, "step"), _column(curve, "loss")
    steps, losses = steps[np.isfinite(losses)], losses[np.isfinite(losses)]
    count = max(1, min(_MEANS, len(steps) // 4))
    parts = [
        part for part in zip(np.array_split(steps, count), np.array_split(losses, count), strict=True) if len(part[0])
    ]
    return np.array([part.mean() for part, _ in parts]), np.array([part.mean() for _, part in parts])


def _column(table: pa.Table, name: str) -> Values:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
