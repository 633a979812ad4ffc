"""Progress and results of stages as text."""

from collections.abc import Mapping

from homegrown.reporting.numbers import duration, file_size, quantity, shown
from homegrown.util.progress import Metric
from tasks.ui.events import Event

SECONDS_LEFT = "seconds_left"
"""The metric by which a stage reports its own estimate of the time left."""

_SHORT = {
    "validation_bits_per_byte": "bits per byte",
    "tokens_per_second": "tokens/s",
    "model_flops_utilisation": "MFU",
}


def figure(name: str, value: Metric) -> str:
    """Format a metric by its name: `seconds…` as a time span, `…utilisation` as a percentage."""
    if name.startswith("seconds") and not isinstance(value, str):
        return duration(value)
    if name.endswith("utilisation") and not isinstance(value, str):
        return f"{value:.0%}"
    return shown(value)


def news(metrics: Mapping[str, Metric], most: int | None = None) -> str:
    """Format the first `most` metrics of a stage's progress on one line, without the time left."""
    names = [name for name in metrics if name != SECONDS_LEFT][:most]
    return " · ".join(f"{_SHORT.get(name) or name.replace('_', ' ')} {figure(name, metrics[name])}" for name in names)


def made_in_words(event: Event) -> str:
    """Return the result of a stage: its duration, rows, size and name."""
    if event.artifact is None:
        return event.kind
    manifest = event.artifact.manifest
    made = "cached" if event.kind == "cached" else f"made in {duration(manifest.seconds)}"
    size = file_size(manifest.bytes)
    return f"{made} · {quantity(manifest.rows_out, manifest.unit)} · {size} · {event.artifact.name}"


def progress_in_words(event: Event, seconds: float) -> tuple[float, str]:
    """Return the progress of a stage after `seconds` in percent, and as text with the time left."""
    words = [_how_far(event, seconds)]
    if event.metrics:
        words.append(news(event.metrics))
    if event.total and 0 < event.done < event.total:
        left = event.metrics.get(SECONDS_LEFT, seconds * (event.total - event.done) / event.done)
        words.append(f"{figure(SECONDS_LEFT, left)} left")
    return (min(100 * event.done / event.total, 100) if event.total else 0.0), " · ".join(filter(None, words))


def _how_far(event: Event, seconds: float) -> str:
    if not event.total:
        return f"{event.done:,.6g}" if event.done else f"running for {duration(seconds)}"
    if event.done == int(event.done) and event.total == int(event.total):
        return f"{event.done:,.0f} of {event.total:,.0f}"
    return f"{min(event.done / event.total, 1):.0%}"  # of megabytes and other fractional amounts
