"""The groups of weights, the steps of AdamW and Muon against their papers' algorithms, and learning rates."""

import copy
import math

import pytest
import torch

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training.muon import orthogonal
from homegrown.training.objective import clip_gradients
from homegrown.training.optimizer import optimizers
from homegrown.training.schedule import lr_share


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_matrices_decay_and_gains_and_biases_do_not(
    model_settings: ModelSettings, training_settings: TrainingSettings, family: str
) -> None:
    settings = model_settings.model_copy(update={"family": family, "kv_heads": 4})
    model = Transformer(ModelConfig.from_settings(settings, 300, 0.0))
    decay = {
        name: group["weight_decay"]
        for optimizer in optimizers(model, training_settings)
        for group in optimizer.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert decay.keys() == dict(model.named_parameters()).keys()
    vectors = {name for name in decay if "norm" in name or name.endswith("bias")}
    assert vectors
    assert all(decay[name] == 0 for name in vectors)
    assert all(decay[name] == training_settings.weight_decay for name in decay.keys() - vectors)


def test_two_steps_are_those_of_the_paper(training_settings: TrainingSettings) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with the decay scaled by the learning rate."""
    module = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(module.weight, 0.5)
    changes = {"optimizer": "adamw", "learning_rate": 0.1, "weight_decay": 0.2, "beta2": 0.95}
    (optimizer,) = optimizers(module, training_settings.model_copy(update=changes))
    weight, first, second = 0.5, 0.0, 0.0
    for step, gradient in enumerate([1.0, -0.25], start=1):
        module.weight.grad = torch.full_like(module.weight, gradient)
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        corrected = first / (1 - 0.9**step) / ((second / (1 - 0.95**step)) ** 0.5 + 1e-8)
        weight = weight - 0.1 * 0.2 * weight - 0.1 * corrected
    assert module.weight.tolist() == [pytest.approx([weight, weight], rel=1e-6)]


@pytest.mark.parametrize("shape", [(24, 64), (96, 32)])
def test_orthogonalised_matrices_have_the_singular_vectors_of_the_given(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape), torch.randn(shape[::-1])]
    for matrix, near in zip(matrices, orthogonal(matrices, 5, torch.float32), strict=True):
        assert near.shape == matrix.shape
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        values = left.T @ near @ right.T
        assert torch.allclose(values, torch.diag(values.diagonal()), atol=1e-4)
        assert values.diagonal().min() > 0.5
        assert values.diagonal().max() < 1.3


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_muons_steps_are_those_of_pytorchs(training_settings: TrainingSettings, precision: str) -> None:
    """PyTorch's orthogonalises one matrix after the other, in bfloat16, which has 8 bits: hence the tolerance."""
    torch.manual_seed(0)
    ours = torch.nn.Sequential(*[torch.nn.Linear(*sizes, bias=False) for sizes in [(64, 64), (64, 160), (160, 64)] * 2])
    theirs = copy.deepcopy(ours)
    changes = {"precision": precision, "weight_decay": 0.2, "matrix_learning_rate": 0.05}
    _, muon = optimizers(ours, training_settings.model_copy(update=changes))
    reference = torch.optim.Muon(
        theirs.parameters(), lr=0.05, weight_decay=0.2, momentum=training_settings.momentum, ns_steps=5
    )
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert ((one - other).norm() / other.norm()).item() < 0.02


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 1, 0.1),  # 1/4 of the way up to 0.4
        ("cosine", 3, 0.3),
        ("cosine", 4, 0.4),  # the peak
        ("cosine", 14, 0.22),  # halfway to step 24: the middle of 0.4 and the floor 0.04
        ("cosine", 9, 0.04 + 0.36 * (1 + 0.5**0.5) / 2),  # a quarter: cos 45 degrees
        ("cosine", 23, 0.04 + 0.36 * math.sin(math.pi / 40) ** 2),
        ("linear", 2, 0.2),
        ("linear", 4, 0.4),
        ("linear", 9, 0.31),
        ("linear", 14, 0.22),
        ("linear", 23, 0.058),
        ("wsd", 2, 0.2),
        ("wsd", 4, 0.4),
        ("wsd", 18, 0.4),  # the last 5 steps begin after it
        ("wsd", 21, 0.22),
        ("wsd", 23, 0.1),
    ],
)
def test_learning_rates_are_those_of_the_formulas(
    training_settings: TrainingSettings, schedule: str, step: int, expected: float
) -> None:
    """The floor is reached at step 24, after the last."""
    changes = {"max_steps": 23, "warmup_steps": 4, "learning_rate": 0.4, "schedule": schedule}
    settings = training_settings.model_copy(update={**changes, "final_learning_rate_share": 0.1, "decay_steps": 5})
    assert settings.learning_rate * lr_share(step, settings) == pytest.approx(expected)


def test_without_warm_up_the_rate_falls_evenly_from_the_first_step_to_the_last(
    training_settings: TrainingSettings,
) -> None:
    changes = {"max_steps": 9, "warmup_steps": 0, "schedule": "linear", "final_learning_rate_share": 0.0}
    settings = training_settings.model_copy(update=changes)
    expected = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert [lr_share(step, settings) for step in range(1, 10)] == pytest.approx(expected)


@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_the_gradients_of_each_optimizer_are_clipped_by_their_own_norm(
    model_settings: ModelSettings, training_settings: TrainingSettings, bound: float
) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig.from_settings(model_settings, 300, 0.0))
    made = optimizers(model, training_settings)
    before, norms = {}, []
    for optimizer, size in zip(made, (0.01, 3.0), strict=True):
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in own:
            parameter.grad = size * torch.randn_like(parameter)
        norms.append(math.sqrt(sum(float(parameter.grad.double().square().sum()) for parameter in own)))
        before |= {parameter: (parameter.grad.clone(), min(1.0, bound / norms[-1])) for parameter in own}
    assert clip_gradients(made, bound).item() == pytest.approx(math.hypot(*norms), rel=1e-5)
    assert len(before) == len(list(model.parameters()))
    for parameter, (gradient, factor) in before.items():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient * factor, rtol=1e-4)
