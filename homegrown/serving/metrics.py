"""Metrics for Prometheus: requests, tokens, latencies, and the number of running and queued requests."""

from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The metrics of one server."""

    def __init__(self, lengths: Callable[[], dict[str, tuple[int, int]]]):
        """`lengths` returns the number of running and of queued requests of each model."""
        self._registry, self._lengths = CollectorRegistry(), lengths
        self._registry.register(self)
        self._requests = Counter(
            "homegrown_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._prompt = Counter("homegrown_prompt_tokens", "Prompt tokens.", ["model"], registry=self._registry)
        self._generated = Counter("homegrown_generated_tokens", "Generated tokens.", ["model"], registry=self._registry)
        self._first = Histogram(
            "homegrown_time_to_first_token_seconds",
            "Time from a request to its first token, including the queue.",
            ["model"],
            buckets=_FIRST,
            registry=self._registry,
        )
        self._token = Histogram(
            "homegrown_time_per_token_seconds",
            "Time between two tokens of a request.",
            ["model"],
            buckets=_TOKEN,
            registry=self._registry,
        )

        # Once per model: each token would look them up.
        self._of = cache(
            lambda model: (self._generated.labels(model), self._first.labels(model), self._token.labels(model))
        )

    def answered(self, route: str, status: int) -> None:
        """Count a request; `route` is the pattern of its path."""
        self._requests.labels(route, str(status)).inc()

    def prompt(self, model: str, tokens: int) -> None:
        """Count the tokens of a prompt."""
        self._prompt.labels(model).inc(tokens)

    def generated(self, model: str, tokens: int, seconds: float, *, first: bool) -> None:
        """Count generated tokens and the time since the previous ones, or since the request."""
        if tokens:
            generated, first_token, token = self._of(model)
            generated.inc(tokens)
            (first_token if first else token).observe(seconds if first else seconds / tokens)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges to the registry."""
        running = GaugeMetricFamily("homegrown_running_rows", "Running requests.", labels=["model"])
        queued = GaugeMetricFamily("homegrown_queue_length", "Queued requests.", labels=["model"])
        for model, (rows, queue) in self._lengths().items():
            running.add_metric([model], rows)
            queued.add_metric([model], queue)
        yield from (running, queued)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
