"""The optimizers of a run, and their state as named tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from homegrown.config.recipe import TrainingSettings
from homegrown.training.muon import Muon
from homegrown.training.precision import choose_precision


def optimizers(model: nn.Module, settings: TrainingSettings, wide_share: float = 1.0) -> list[Optimizer]:
    """Return what updates the model's weights: AdamW, or Muon for the hidden matrices and AdamW for the rest.

    Muon (Jordan et al. 2024) makes every update of a matrix orthogonal; it is meant for matrices that map hidden states
    to hidden states, so embeddings, the output projection, gains and biases stay with AdamW (Loshchilov and Hutter
    2019). Decay is decoupled and of matrices only: gains and biases, pulled towards 0, would switch off what they
    scale. Every group has its highest rate under "peak_lr"; `set_rates` sets what holds at a step. The matrices with a
    vocabulary learn at `wide_share` of AdamW's rate.
    """
    hidden, wide, vectors = _kinds(model)
    rate, decay = settings.learning_rate, settings.weight_decay
    groups = [
        {"params": wide, "weight_decay": decay, "peak_lr": rate * wide_share},
        {"params": vectors, "weight_decay": 0.0, "peak_lr": rate},
    ]
    if settings.optimizer == "adamw":
        groups.append({"params": hidden, "weight_decay": decay, "peak_lr": rate})
    made: list[Optimizer] = [
        AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)
    ]
    if settings.optimizer == "muon":
        group = {"params": hidden, "peak_lr": settings.matrix_learning_rate}
        made.append(
            Muon(
                [group],
                orthogonalization_dtype(settings, hidden[0].device.type),
                lr=settings.matrix_learning_rate,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                ns_steps=settings.orthogonalization_steps,
            )
        )
    return made


def orthogonalization_dtype(settings: TrainingSettings, device: str) -> torch.dtype:
    """Return bfloat16, which is enough for Muon, where the model's own products are in it, and float32 elsewhere."""
    products = choose_precision(settings.precision, "cuda" if device == "cuda" else "cpu").dtype
    return torch.bfloat16 if products == torch.bfloat16 else torch.float32


def set_rates(optimizers: Sequence[Optimizer], share: float) -> None:
    """Set every group's learning rate to `share` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that are trained, not copies, by name; what is frozen is in no checkpoint."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def state_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Return the optimizers' own tensors, not copies, as `<parameter>/<moment>`."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def make_state(model: nn.Module, optimizers: Sequence[Optimizer], shapes: Mapping[str, Sequence[int]]) -> None:
    """Make the tensors that `state_tensors` has after a step: zeros in the given shapes, each of a whole tensor.

    They are sharded as their parameters are; names that are none of theirs are passed over.
    """
    parameters = dict(model.named_parameters())
    owners: dict[Any, Optimizer] = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for path, shape in shapes.items():
        name, _, moment = path.rpartition("/")
        if name in parameters:
            parameter = parameters[name]
            alike = tuple(parameter.shape) == tuple(shape)
            tensor = torch.zeros_like(parameter) if alike else torch.zeros(tuple(shape), device=parameter.device)
            owners[parameter].state[parameter][moment] = tensor.detach()


def _kinds(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the hidden matrices, the matrices with a vocabulary, and the vectors that are trained."""
    hidden, wide, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif "embed_tokens" in name or "lm_head" in name:
            wide.append(parameter)
        else:
            hidden.append(parameter)
    return hidden, wide, vectors


def share(step: int, settings: TrainingSettings) -> float:
    """Return the share of the peak learning rate of optimizer step `step` (from 1 to `max_steps`).

    It rises in a line over `warmup_steps`, reaching 1 at the last of them. Then it falls along half a cosine
    (Loshchilov and Hutter 2017) or a line, or stays at 1 and falls in a line over the last `decay_share` of all steps
    (Hu et al. 2024, MiniCPM; the linear fall: Hägele et al. 2024), reaching its final share at `max_steps`.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    falling = settings.max_steps - settings.warmup_steps
    if settings.schedule == "wsd":
        falling = min(falling, math.ceil(settings.decay_share * settings.max_steps))
    left = min(1.0, (settings.max_steps - step) / falling)
    if settings.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    floor = settings.final_learning_rate_share
    return floor + (1 - floor) * left
