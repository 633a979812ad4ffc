"""What Prometheus is told: requests, tokens, how long they took, how many are being written and how many wait."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The figures of one server."""

    def __init__(self, lengths: Callable[[], dict[str, tuple[int, int]]]):
        """`lengths` returns for each model how many completions are being written, and how many wait."""
        self._registry, self._lengths = CollectorRegistry(), lengths
        self._registry.register(self)
        self._requests = Counter(
            "homegrown_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._prompt = Counter("homegrown_prompt_tokens", "Tokens of prompts.", ["model"], registry=self._registry)
        self._generated = Counter("homegrown_generated_tokens", "Tokens written.", ["model"], registry=self._registry)
        self._first = Histogram(
            "homegrown_time_to_first_token_seconds",
            "From a request to its first token, the wait for a row included.",
            ["model"],
            buckets=_FIRST,
            registry=self._registry,
        )
        self._token = Histogram(
            "homegrown_time_per_token_seconds",
            "From one token of a completion to its next.",
            ["model"],
            buckets=_TOKEN,
            registry=self._registry,
        )

    def answered(self, route: str, status: int) -> None:
        """Count a request; `route` is its path's pattern."""
        self._requests.labels(route, str(status)).inc()

    def read(self, model: str, tokens: int) -> None:
        """Count the tokens of a prompt."""
        self._prompt.labels(model).inc(tokens)

    def wrote(self, model: str, tokens: int, seconds: float, *, first: bool) -> None:
        """Count tokens that were written, and the time since those before them, or since the request."""
        if tokens:
            self._generated.labels(model).inc(tokens)
            (self._first if first else self._token).labels(model).observe(seconds if first else seconds / tokens)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Look up the gauges, as the registry asks."""
        running = GaugeMetricFamily("homegrown_running_rows", "Completions being written.", labels=["model"])
        waiting = GaugeMetricFamily("homegrown_queue_length", "Completions that wait for a row.", labels=["model"])
        for model, (rows, queue) in self._lengths().items():
            running.add_metric([model], rows)
            waiting.add_metric([model], queue)
        yield from (running, waiting)

    def text(self) -> bytes:
        """Return it all in Prometheus' text format."""
        return generate_latest(self._registry)
