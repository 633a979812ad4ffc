"""The curves of a training run as a PNG, also while it trains."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from homegrown.reporting import charts
from homegrown.training.metrics import StepMetrics
from homegrown.util.files import replacing

if TYPE_CHECKING:  # Matplotlib is an eighth of what a worker imports, and rarely needed
    from matplotlib.axes import Axes

_TRAINING, _VALIDATION, _RATE, _NORM, _SPEED = charts.BLUE, charts.VERMILION, charts.GREEN, charts.PURPLE, charts.INK
_INK = charts.INK
_POINTS = 2000
_VIEW, _MARGIN = 0.99, 0.08
_LEAST_SECONDS, _MOST_SECONDS = 20.0, 60.0
_SHARE = 0.02

Values = npt.NDArray[np.float64]


class LiveCurve:
    """Draws the curves of a running training, in the process that waits for the workers, not in the loop.

    Every 20 seconds, and less often, down to every 60, if drawing takes more than 2% of a processor. Its CPU time
    counts: waiting for processors that training keeps busy, or for the first import, must not stop the drawing.
    """

    def __init__(self, path: Path, steps: Callable[[], Sequence[StepMetrics]], unit: str):
        self._path, self._steps, self._unit = path, steps, unit
        self._next = time.monotonic() + _LEAST_SECONDS

    def draw(self) -> None:
        """Draw the steps so far, if it is time."""
        began = time.monotonic()
        if began < self._next:
            return
        import matplotlib.figure  # noqa: F401

        computed = time.thread_time()
        try:
            if len(steps := self._steps()) > 1:
                draw_curve(self._path, steps, self._unit)
        except OSError:
            pass  # the workers report a full disk; a picture stops nothing
        took = time.thread_time() - computed
        self._next = began + min(max(_LEAST_SECONDS, took / _SHARE), _MOST_SECONDS)


def draw_curve(path: Path, metrics: Sequence[StepMetrics], unit: str) -> None:
    """Draw loss in `unit`, learning rate, gradient norm and speed against steps, as a PNG that names the last step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic([["loss", "rate"], ["loss", "norm"], ["loss", "speed"]], width_ratios=[1.9, 1])
    steps = _column(metrics, "step")
    _draw_loss(panels["loss"], steps, metrics, unit)
    _draw_line(panels["rate"], "Learning rate", _RATE, steps, _column(metrics, "learning_rate"))
    _draw_noisy(panels["norm"], "Gradient norm", _NORM, steps, _taken(metrics, "gradient_norm"))
    panels["norm"].set_ylim(bottom=0)
    _draw_speed(panels["speed"], steps, metrics)
    for panel in panels.values():
        panel.set_xlim(0, max(steps[-1], 2))
        panel.grid(alpha=0.18)
        panel.tick_params(colors=_INK, labelsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in (panels["loss"], panels["speed"]):
        panel.set_xlabel(f"step (drawn at step {steps[-1]:,.0f})", color=_INK)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_loss(panel: "Axes", steps: Values, metrics: Sequence[StepMetrics], unit: str) -> None:
    _draw_noisy(panel, "Loss", _TRAINING, steps, _taken(metrics, "loss"), label="training")
    panel.set_ylabel(unit, color=_INK)
    validated = [row for row in metrics if row.validation_loss is not None]
    if validated:
        at, losses = [row.step for row in validated], _column(validated, "validation_loss")
        panel.plot(at, losses, color=_VALIDATION, linewidth=2, marker="o", markersize=4, label="validation")
        best = validated[int(np.argmin(losses))]
        panel.annotate(
            f"{best.validation_loss:.3f} {unit}\n{best.validation_bits_per_byte:.3f} bits per byte",
            (best.step, float(losses.min())),
            xytext=(-6, 26),
            textcoords="offset points",
            ha="right",
            color=_INK,
            fontweight="bold",
        )
    skipped = [row.step for row in metrics if row.skipped]
    if skipped:
        place = panel.get_xaxis_transform()
        panel.plot(skipped, np.zeros(len(skipped)), "|", color=_INK, transform=place, clip_on=False, label="skipped")
    panel.legend(frameon=False, loc="upper right")


def _draw_speed(panel: "Axes", steps: Values, metrics: Sequence[StepMetrics]) -> None:
    speeds, shares = _column(metrics, "tokens_per_second"), _column(metrics, "model_flops_utilisation")
    _draw_noisy(panel, "Tokens per second", _SPEED, steps, speeds)
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    title = f"{np.median(shares):.0%} of the device's peak"
    panel.set_title(title, loc="right", color=_INK, fontsize=9)


def _draw_noisy(panel: "Axes", title: str, color: str, steps: Values, values: Values, label: str | None = None) -> None:
    """Draw values faintly and their running mean; the highest, such as the first, are out of view."""
    panel.plot(*_thinned(steps, values), color=color, alpha=0.22, linewidth=0.8)
    _draw_line(panel, title, color, steps, _running_mean(values), label)
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanquantile(values, _VIEW)
        panel.set_ylim(low - _MARGIN * (high - low or 1), high + _MARGIN * (high - low or 1))


def _draw_line(panel: "Axes", title: str, color: str, steps: Values, values: Values, label: str | None = None) -> None:
    panel.plot(*_thinned(steps, values), color=color, linewidth=2, label=label)
    panel.set_title(title, loc="left", color=_INK, fontweight="bold")


def _column(metrics: Sequence[StepMetrics], name: str) -> Values:
    return np.array([getattr(row, name) for row in metrics], dtype=np.float64)


def _taken(metrics: Sequence[StepMetrics], name: str) -> Values:
    """Return a column, NaN at steps whose update was skipped."""
    return np.where([row.skipped for row in metrics], np.nan, _column(metrics, name))


def _thinned(steps: Values, values: Values) -> tuple[Values, Values]:
    """Return at most about 2,000 points, more than the picture has columns, so that a long run draws as fast."""
    every = -(-len(steps) // _POINTS)
    return steps[::every], values[::every]


def _running_mean(values: Values) -> Values:
    """Return the mean of the finite values around each one: a twentieth of the run, cut off at its ends."""
    reach = max(1, len(values) // 40)
    numbers = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(numbers, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(numbers)])
    places = np.arange(len(values))
    first, end = np.maximum(0, places - reach), np.minimum(len(values), places + reach + 1)
    with np.errstate(invalid="ignore"):
        means: Values = (sums[end] - sums[first]) / (counts[end] - counts[first])
    return means
