"""Figures as people read them."""

from collections.abc import Mapping

from homegrown.reporting.numbers import duration, file_size, shown
from homegrown.util.progress import Metric
from tasks.ui.events import Event

SECONDS_LEFT = "seconds_left"
"""The figure by which a stage that knows better says how long it will still take."""

_SHORT = {
    "validation_bits_per_byte": "bits per byte",
    "tokens_per_second": "tokens/s",
    "model_flops_utilisation": "MFU",
}


def figure(name: str, value: Metric) -> str:
    """Write a figure as what its name says it is: `seconds…` a time span, `…utilisation` a percentage."""
    if name.startswith("seconds") and not isinstance(value, str):
        return duration(value)
    if name.endswith("utilisation") and not isinstance(value, str):
        return f"{value:.0%}"
    return shown(value)


def news(metrics: Mapping[str, Metric], most: int | None = None) -> str:
    """Write the first `most` figures of a stage's progress in one short line; what is left is told elsewhere."""
    told = [name for name in metrics if name != SECONDS_LEFT][:most]
    return " · ".join(f"{_SHORT.get(name) or name.replace('_', ' ')} {figure(name, metrics[name])}" for name in told)


def made_in_words(event: Event) -> str:
    """Return what became of a stage that has ended: how long it took, what it made, how much, its name."""
    if event.artifact is None:
        return event.kind
    manifest = event.artifact.manifest
    made = "cached" if event.kind == "cached" else f"made in {duration(manifest.seconds)}"
    size = file_size(manifest.bytes)
    return f"{made} · {shown(manifest.rows_out)} {manifest.unit} · {size} · {event.artifact.name}"


def progress_in_words(event: Event, seconds: float) -> tuple[float, str]:
    """Return how far a stage is after `seconds`, in percent, and the same in words with the time that is left."""
    words = [_how_far(event, seconds)]
    if event.metrics:
        words.append(news(event.metrics))
    if event.total and 0 < event.done < event.total:
        left = event.metrics.get(SECONDS_LEFT, seconds * (event.total - event.done) / event.done)
        words.append(f"{figure(SECONDS_LEFT, left)} left")
    return (min(100 * event.done / event.total, 100) if event.total else 0.0), " · ".join(filter(None, words))


def _how_far(event: Event, seconds: float) -> str:
    if not event.total:
        return f"{event.done:,.6g}" if event.done else f"at it for {duration(seconds)}"
    if event.done == int(event.done) and event.total == int(event.total):
        return f"{event.done:,.0f} of {event.total:,.0f}"
    return f"{min(event.done / event.total, 1):.0%}"  # of megabytes, or what else is not counted one by one
