"""The measured peak, on a machine whose clock runs by the operations it computes, and its trace in the random state."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from homegrown.training import peak

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh() -> None:
    peak._measure.cache_clear()


def test_the_peak_is_that_of_the_fastest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own counter says what a product costs; 96 x 96 runs at 3 MFLOP/s here, the other sizes at 2."""
    clock = {"now": 0.0}
    multiply = torch.mm

    def slow_mm(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        with FlopCounterMode(display=False) as counter:
            multiply(left, right, out=out)
        clock["now"] += counter.get_total_flops() / (3e6 if len(left) == 96 else 2e6)

    monkeypatch.setattr(peak, "_SIZES", {"cpu": (48, 96, 192)})
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))
    monkeypatch.setattr(torch, "mm", slow_mm)
    assert peak.matmul_peak(CPU, torch.float32) == pytest.approx(3e6)


def test_it_is_measured_once_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = count(1)
    monkeypatch.setattr(peak, "_SIZES", {"cpu": (48,)})
    monkeypatch.setattr(peak, "_rate", lambda *_: float(next(rates)))
    asked = [peak.matmul_peak(CPU, torch.float32) for _ in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    asked.append(peak.matmul_peak(CPU, torch.float32))
    torch.set_num_threads(threads)
    assert asked == [1, 1, 2]


def test_random_numbers_drawn_after_it_are_those_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_SECONDS", 0.01)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    peak.matmul_peak(CPU, torch.float32)
    assert torch.equal(torch.rand(3), expected)
