"""The optimizers of a run, and their state as named tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from homegrown.config.training import TrainingSettings
from homegrown.training.averaging import SUFFIX
from homegrown.training.muon import Muon
from homegrown.training.precision import choose_precision


def optimizers(model: nn.Module, settings: TrainingSettings, embedding_lr_share: float = 1.0) -> list[Optimizer]:
    """Return AdamW for all weights, or Muon for the hidden matrices and AdamW for the rest.

    Muon (Jordan et al. 2024) makes every update of a matrix orthogonal. It is for matrices that map hidden states to
    hidden states, so embeddings, output projection, gains and biases stay with AdamW (Loshchilov and Hutter 2019).
    Weight decay is decoupled and for matrices only: gains and biases, pulled towards 0, would switch off what they
    scale. Every group has its peak learning rate under "peak_lr"; `set_lr` sets that of a step. Embedding and output
    projection learn at `embedding_lr_share` of AdamW's rate.
    """
    hidden, embeddings, vectors = _kinds(model)
    lr, weight_decay = settings.learning_rate, settings.weight_decay
    groups = [
        {"params": embeddings, "weight_decay": weight_decay, "peak_lr": lr * embedding_lr_share},
        {"params": vectors, "weight_decay": 0.0, "peak_lr": lr},
    ]
    if settings.optimizer == "adamw":
        groups.append({"params": hidden, "weight_decay": weight_decay, "peak_lr": lr})
    made: list[Optimizer] = [AdamW(groups, lr=lr, betas=(0.9, settings.beta2), fused=True)]
    if settings.optimizer == "muon":
        group = {"params": hidden, "peak_lr": settings.matrix_learning_rate}
        made.append(
            Muon(
                [group],
                orthogonalization_dtype(settings, hidden[0].device.type),
                lr=settings.matrix_learning_rate,
                weight_decay=weight_decay,
                momentum=settings.momentum,
                ns_steps=settings.orthogonalization_steps,
            )
        )
    return made


def orthogonalization_dtype(settings: TrainingSettings, device: str) -> torch.dtype:
    """Return bfloat16, enough for Muon, if the model's products are in it; else float32."""
    products = choose_precision(settings.precision, device).dtype
    return torch.bfloat16 if products == torch.bfloat16 else torch.float32


def set_lr(optimizers: Sequence[Optimizer], share: float) -> None:
    """Set every group's learning rate to `share` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters themselves by name; a checkpoint holds no frozen ones."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def state_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Return the optimizers' tensors themselves as `<parameter>/<moment>`."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def make_state(model: nn.Module, optimizers: Sequence[Optimizer], shapes: Mapping[str, Sequence[int]]) -> None:
    """Make the tensors of `state_tensors` as they exist after a step: zeros in the given unsharded shapes.

    They are sharded like their parameters; other names are ignored.
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
        if name in parameters and not path.endswith(SUFFIX):
            parameter = parameters[name]
            alike = tuple(parameter.shape) == tuple(shape)
            tensor = torch.zeros_like(parameter) if alike else torch.zeros(tuple(shape), device=parameter.device)
            owners[parameter].state[parameter][moment] = tensor.detach()


def _kinds(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the trained parameters: hidden matrices, those with a vocabulary, and vectors."""
    hidden, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif "embed_tokens" in name or "lm_head" in name:
            embeddings.append(parameter)
        else:
            hidden.append(parameter)
    return hidden, embeddings, vectors
