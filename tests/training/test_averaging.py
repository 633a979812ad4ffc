"""The averaged weights: their formula, and that they are validated, resumed and the result."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.model import weights
from homegrown.training.averaging import WeightAverage
from homegrown.training.pretraining import Job
from homegrown.training.results import finish
from homegrown.training.trainer import Callback, Step, Trainer
from tests.training.side_by_side import Leg, run_here

SHARE, POWER = 0.2, 8


def share_of(step: int, last: int) -> float:
    """A polynomial of degree 8: binomial coefficients, whose sum over all steps up to `last` is one as well."""
    return math.comb(step + POWER - 1, POWER) / math.comb(last + POWER, POWER + 1)


def test_the_average_is_that_of_the_formula() -> None:
    history = [torch.randn(3, 2, generator=torch.Generator().manual_seed(step)) for step in range(1, 31)]
    weight = torch.zeros(3, 2)
    average = WeightAverage({"a": weight}, SHARE)
    for step, value in enumerate(history, start=1):
        weight.copy_(value)
        average.update(step)
        expected = sum(share_of(one, step) * history[one - 1].double() for one in range(1, step + 1))
        assert torch.allclose(average.tensors["a/average"].double(), expected, atol=1e-6)
    with average.in_place():
        assert torch.allclose(weight.double(), expected, atol=1e-6)
        assert torch.equal(average.tensors["a/average"], history[-1])
    assert torch.equal(weight, history[-1])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_it_is_as_old_as_a_uniform_average_over_the_share(share: float) -> None:
    step_number = torch.zeros(1)
    average = WeightAverage({"a": step_number}, share)
    for step in range(1, 1001):
        step_number.fill_(step)
        average.update(step)
    uniform = sum(range(1001 - round(1000 * share), 1001)) / round(1000 * share)
    assert average.tensors["a/average"].item() == pytest.approx(uniform, abs=1.5)


class History(Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        self.weights.append({name: one.detach().double() for name, one in trainer.model.named_parameters()})


@pytest.fixture
def job(corpus: dict[str, Path], tiny: tuple[ModelSettings, TrainingSettings]) -> Job:
    settings = tiny[1].model_copy(update={"max_steps": 12, "sample_prompts": []})
    return Job(**corpus, model=tiny[0], training=settings, seed=1, device="cpu")


def loss_of(model: Path, packed: Path, settings: TrainingSettings) -> float:
    """PyTorch's cross-entropy of a saved model over the windows of a validation."""
    split, loaded = TokenSplit(packed, "validation"), weights.load(model)
    chosen = torch.linspace(0, split.windows(32) - 1, settings.validation_tokens // 32).round().long()
    rows = torch.from_numpy(split.read(chosen.tolist(), 32))
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(loaded(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()


def test_it_is_validated_resumed_and_the_result(alone: None, job: Job, tmp_path: Path) -> None:
    history, (one, two) = History(), (tmp_path / "one", tmp_path / "two")
    (undisturbed,) = run_here([Leg(str(one))], job, history)
    _, resumed = run_here([Leg(str(two), until=5), Leg(str(two))], job)
    assert (one / "model" / "model.safetensors").read_bytes() == (two / "model" / "model.safetensors").read_bytes()
    for name, kept in weights.load(one / "model").named_parameters():
        expected = sum(share_of(step, 12) * each[name] for step, each in enumerate(history.weights, start=1))
        assert torch.allclose(kept.double(), expected, atol=1e-5), name
        assert not torch.allclose(kept.double(), history.weights[-1][name], atol=1e-5), name
    validated = [row.validation_loss for row in undisturbed.state.metrics]
    assert validated == [row.validation_loss for row in resumed.state.metrics]
    assert validated[-1] == pytest.approx(loss_of(one / "model", job.packed, job.training), rel=1e-5)


def test_early_stopping_keeps_the_best_average(alone: None, job: Job, tmp_path: Path) -> None:
    """A rising learning rate soon undoes what the first steps learned."""
    changes: dict[str, Any] = {"learning_rate": 3.0, "warmup_steps": 11, "validate_every": 1, "patience": 2}
    (trainer,) = run_here([Leg(str(tmp_path), changes=changes)], job)
    finish(trainer, tmp_path, 0)
    losses = [row.validation_loss for row in trainer.state.metrics if row.validation_loss is not None]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["weights_step"] == losses.index(min(losses)) + 1 < len(losses) < 12
    assert loss_of(tmp_path / "model", job.packed, job.training) == pytest.approx(min(losses), rel=1e-5)
