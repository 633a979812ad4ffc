"""AdamW, and its state as named tensors."""

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from homegrown.recipe import TrainingSettings


def adamw(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """Return AdamW (Loshchilov and Hutter 2019) with decoupled decay of the matrices only.

    Gains and biases are not decayed: pulled towards 0, they would switch off what they scale.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)


def state_tensors(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Return the optimizer's state as `<parameter>/<moment>` tensors on the CPU."""
    return {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def restore_state(model: nn.Module, optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` returned."""
    parameters = dict(model.named_parameters())
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device, torch.float32)
