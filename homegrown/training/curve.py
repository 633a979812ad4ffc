"""The picture of a training run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from homegrown.files import replacing
from homegrown.training.metrics import StepMetrics

_TRAINING, _VALIDATION, _RATE, _INK = "#3b6ea8", "#d1603d", "#5f8a4c", "#3a3a3a"


def draw_curve(path: Path, metrics: Sequence[StepMetrics]) -> None:
    """Draw training and validation loss against steps, and the learning rate beside them, as a PNG."""
    figure = Figure(figsize=(11, 4.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(1, 2, width_ratios=[2.4, 1])
    steps = np.array([row.step for row in metrics])
    loss = np.array([row.loss for row in metrics])
    losses.plot(steps, loss, color=_TRAINING, alpha=0.22, linewidth=0.8)
    losses.plot(steps, _running_mean(loss), color=_TRAINING, linewidth=2, label="training")
    validated = [(row.step, row.validation_loss) for row in metrics if row.validation_loss is not None]
    if validated:
        at, values = zip(*validated, strict=True)
        losses.plot(at, values, color=_VALIDATION, linewidth=2, marker="o", markersize=4, label="validation")
        best = min(validated, key=lambda pair: pair[1])
        losses.annotate(
            f"{best[1]:.3f}", best, xytext=(0, -14), textcoords="offset points", ha="center", color=_VALIDATION
        )
    losses.set_title("Loss", loc="left", color=_INK, fontweight="bold")
    losses.set_ylabel("nats per token", color=_INK)
    losses.legend(frameon=False, loc="upper right")
    losses.margins(y=0.12)
    rates.plot(steps, [row.learning_rate for row in metrics], color=_RATE, linewidth=2)
    rates.set_title("Learning rate", loc="left", color=_INK, fontweight="bold")
    rates.set_ylim(bottom=0)
    rates.yaxis.set_major_formatter("{x:g}")
    for axes in (losses, rates):
        axes.set_xlabel("step", color=_INK)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.18)
        axes.tick_params(colors=_INK)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value's neighbourhood, a twentieth of the run, cut off at the ends."""
    reach = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, end = np.maximum(0, places - reach), np.minimum(len(values), places + reach + 1)
    means: np.ndarray = (sums[end] - sums[first]) / (end - first)
    return means
