"""The size of a forward pass: what divides the batch and fits."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from homegrown.config.training import TrainingSettings
from homegrown.training import microbatch
from homegrown.util import devices

KILOBYTE = 10**3


@pytest.mark.parametrize(
    ("share", "bound", "expected"), [(8, 100, 8), (8, 8, 8), (8, 7, 4), (12, 5, 4), (12, 11, 6), (7, 6, 1), (4, 0, 1)]
)
def test_it_is_the_largest_divisor_within_the_bound(share: int, bound: int, expected: int) -> None:
    assert microbatch.largest(share, bound) == expected


@pytest.mark.parametrize(("workers", "context", "expected"), [(1, 32, 32), (2, 32, 16), (1, 256, 4), (1, 2048, 1)])
def test_on_a_cpu_it_depends_on_settings_alone(
    training_settings: TrainingSettings, workers: int, context: int, expected: int
) -> None:
    settings = training_settings.model_copy(update={"batch_size": 32, "micro_batch_size": "auto"})
    worker = SimpleNamespace(kind="cpu", count=workers)
    assert microbatch.choose(settings, context, (context + 1,), worker, nn.Identity(), []) == expected


class Simulated(nn.Module):
    """A model of 100 KB with as large a gradient, whose pass takes 50 KB and another 30 for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(25 * KILOBYTE))
        self.peak = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.peak = (200 + 50 + 30 * len(windows)) * KILOBYTE
        return self.weight[:1].sum()


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        # In KB, 90% of it holds weights and gradients (200), AdamW's moments (200), the pass (50) and 30 for each row.
        (1100, 16),
        (1000, 8),
        (10_000, 64),
        (300, 1),
    ],
)
def test_on_a_gpu_it_is_found_from_two_measured_passes(
    training_settings: TrainingSettings, monkeypatch, memory: int, expected: int
) -> None:
    objective = Simulated()
    free = (memory * KILOBYTE - 100 * KILOBYTE, memory * KILOBYTE)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _: free)
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda _: 100 * KILOBYTE)
    monkeypatch.setattr(torch.accelerator, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(devices, "peak_memory", lambda _: objective.peak)
    settings = training_settings.model_copy(update={"batch_size": 64, "micro_batch_size": "auto"})
    worker = SimpleNamespace(kind="cuda", count=1, device=torch.device("cpu"), least=lambda value: value)
    optimizers = [torch.optim.AdamW(objective.parameters())]
    assert microbatch.choose(settings, 32, (33,), worker, objective, optimizers) == expected
    assert objective.weight.grad is None


def test_without_a_measured_peak_it_is_fixed(training_settings: TrainingSettings) -> None:
    settings = training_settings.model_copy(update={"batch_size": 512, "micro_batch_size": "auto"})
    worker = SimpleNamespace(kind="mps", count=1, least=lambda value: value)
    assert microbatch.choose(settings, 32, (33,), worker, nn.Identity(), []) == 4096 // 32
