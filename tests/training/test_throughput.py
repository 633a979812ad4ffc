"""Time left, MFU and the measured peak, memory, and the curves drawn during training."""

import gc
import math
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from matplotlib.image import imread
from torch.utils.flop_counter import FlopCounterMode

from homegrown.training import curve, peak, throughput
from homegrown.training.curve import LiveCurve, draw_curve
from homegrown.training.metrics import StepMetrics
from homegrown.training.throughput import Watch
from homegrown.util.devices import peak_memory


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What these modules read, and no other: servers of other tests live by the real one."""
    clock = Clock()
    for module in (throughput, curve):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock, monotonic=clock, thread_time=clock))
    return clock


def test_time_left_counts_all_work_that_is_still_to_do(clock: Clock) -> None:
    """100 steps of 2 s; after 30 of them 7 validations of 5 s, 3 samples of 1 s and no checkpoint known of yet."""
    watching = Watch(100, {"validation": 10, "samples": 25, "checkpoint": 50}, 128, 1000, 1e6)
    assert watching.seconds_left(0) == 0
    for step in range(1, 31):
        with watching.timing("update"):
            clock.now += 40 if step == 1 else 2  # the first one compiles
        if step == 10:
            with watching.timing("validation"):
                clock.now += 5
        if step == 25:
            with watching.timing("samples"):
                clock.now += 1
    assert watching.seconds_left(30) == 70 * 2 + 7 * 5 + 3 * 1


def test_mfu_is_the_share_of_the_peak(clock: Clock) -> None:
    """128 tokens of 1,000 operations in half a second: 256,000 of the device's 1,000,000 in a second."""
    watching = Watch(100, {}, 128, 1000, 1e6)
    with watching.timing("update"):
        clock.now += 0.5
    assert watching.tokens_per_second == 256
    assert watching.mfu == pytest.approx(0.256)


def test_peak_memory_rises_by_an_allocation_and_stays() -> None:
    gc.collect()  # what is freed meanwhile would be refilled first
    before, resident = peak_memory(torch.device("cpu")), psutil.Process().memory_info().rss
    assert before >= 0.9 * resident
    size = before - resident + 100_000_000
    filled = np.ones(size, dtype=np.uint8)
    after = peak_memory(torch.device("cpu"))
    del filled
    assert 80_000_000 < after - before < 120_000_000
    assert peak_memory(torch.device("cpu")) == pytest.approx(after, rel=0.01)  # Linux counts in batches


def rows(losses: list[float], validate_every: int = 3) -> list[StepMetrics]:
    made = []
    for step, loss in enumerate(losses, 1):
        validation = (3.0, 1.5) if step % validate_every == 0 else (None, None)
        norm = 1.0 if math.isfinite(loss) else loss
        made.append(
            StepMetrics(step, step, loss, 1e-3, norm, 1e4, 0.4, 10**9, not math.isfinite(loss), 0.1 * step, *validation)
        )
    return made


@pytest.mark.parametrize(
    "losses", [[4.0], [4.0, math.nan, math.inf, 3.0], [math.nan] * 5, list(np.linspace(8, 3, 5001))]
)
def test_any_run_can_be_drawn(tmp_path: Path, losses: list[float]) -> None:
    with warnings.catch_warnings(action="error"):
        draw_curve(tmp_path / "curve.png", rows(losses), "nats per token")
    assert imread(tmp_path / "curve.png").shape == (640, 1200, 4)


def test_the_curve_is_drawn_again_however_busy_the_machine_is(clock: Clock, tmp_path: Path, monkeypatch) -> None:
    """Looked at five times a second for an hour; drawing computes 0.1 s, then 0.8 s, then 5 s, and waits for 30 s."""
    drawn: list[float] = []
    computed = Clock()

    def draw(path: Path, metrics: list[StepMetrics], unit: str) -> None:
        drawn.append(clock.now)
        seconds = 0.1 if clock.now < 1200 else 0.8 if clock.now < 2400 else 5
        computed.now += seconds
        clock.now += seconds + (30 if len(drawn) == 1 else 0)

    monkeypatch.setattr("homegrown.training.curve.draw_curve", draw)
    monkeypatch.setattr(curve.time, "thread_time", computed)
    live = LiveCurve(tmp_path / "curve.png", lambda: rows([4.0, 3.0]), "nats per token")
    while clock.now < 3600:
        live.draw()
        clock.now += 0.2
    pauses = np.diff(drawn)
    assert pauses[0] < 32
    assert pauses[5] == pytest.approx(20, abs=0.5)
    assert pauses[70] == pytest.approx(40, abs=0.5)
    assert pauses[-1] == pytest.approx(60, abs=0.5)


# --- the measured peak ------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")


@pytest.fixture
def fresh() -> Iterator[None]:
    peak._measure.cache_clear()
    yield
    peak._measure.cache_clear()


def test_the_peak_is_that_of_the_fastest_size(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own counter says what a product costs; 96 x 96 runs at 3 MFLOP/s here, the other sizes at 2."""
    clock = {"now": 0.0}
    multiply = torch.mm

    def slow_mm(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        with FlopCounterMode(display=False) as counter:
            multiply(left, right, out=out)
        clock["now"] += counter.get_total_flops() / (3e6 if len(left) == 96 else 2e6)

    monkeypatch.setattr(peak, "_SIZES", (48, 96, 192))
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))
    monkeypatch.setattr(torch, "mm", slow_mm)
    assert peak.matmul_peak(CPU, torch.float32) == pytest.approx(3e6)


def test_the_peak_is_measured_once_for_each_number_of_threads(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = count(1)
    monkeypatch.setattr(peak, "_SIZES", (48,))
    monkeypatch.setattr(peak, "_rate", lambda *_: float(next(rates)))
    asked = [peak.matmul_peak(CPU, torch.float32) for _ in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    asked.append(peak.matmul_peak(CPU, torch.float32))
    torch.set_num_threads(threads)
    assert asked == [1, 1, 2]


def test_random_numbers_drawn_after_it_are_those_without_it(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_SECONDS", 0.01)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    peak.matmul_peak(CPU, torch.float32)
    assert torch.equal(torch.rand(3), expected)
