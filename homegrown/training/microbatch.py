"""Sequences in one forward pass: the recipe sets those of a step, memory limits those of a pass."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Muon, Optimizer

from homegrown.config.training import TrainingSettings
from homegrown.training.distributed import Worker
from homegrown.training.objective import local_part
from homegrown.util import devices
from homegrown.util.errors import UserError

_CPU_TOKENS = 1024
"""Tokens in a forward pass on a CPU, whose memory is not measured, so that a run gives the same bits on any machine.
On 2 cores in bf16: at a width of 256, 512 tokens gave 4,600 tokens a second, 1,024 4,950, 2,048 5,500, 4,096 4,700 and
8,192 3,300; at a width of 768, 512 gave 270, 1,024 300 and 2,048 230."""

_BLIND_TOKENS = 4096
"""Tokens in a forward pass on an accelerator whose peak memory PyTorch does not keep."""

_MARGIN = 0.1
"""Share of a GPU's memory left free, for fragments and for needs of a step that the measurement does not see."""


def check(settings: TrainingSettings, workers: int) -> None:
    """Raise UserError if the workers cannot share the batch evenly."""
    if problem := settings.uneven(workers):
        raise UserError(f"{problem}.")


def choose(
    settings: TrainingSettings,
    context: int,
    window: tuple[int, ...],
    worker: Worker,
    objective: nn.Module,
    optimizers: list[Optimizer],
) -> int:
    """Return R, the sequences in one forward pass: a divisor of the worker's share of the batch, the same in all.

    `window` is the shape of one sequence as the objective takes it: [T + 1] or [3, T].

    Raises:
        torch.OutOfMemoryError: two sequences are too many for the GPU.
    """
    if settings.micro_batch_size != "auto":
        return settings.micro_batch_size
    share = settings.batch_size // worker.count
    if worker.kind == "cpu":
        return largest(share, _CPU_TOKENS // context)
    if not devices.traits(worker.kind).peaks:
        return largest(share, worker.least(_BLIND_TOKENS // context))
    first, second = (_peak_bytes(objective, (rows, *window), worker.device) for rows in (1, 2))
    available = devices.available_memory(worker.device)
    spare = (1 - _MARGIN) * available - first - _bytes_to_come(objective, optimizers)
    return largest(share, worker.least(1 + int(spare // max(1, second - first))))


def largest(share: int, bound: int) -> int:
    """Return the largest divisor of `share` that is at most `bound`, and at least 1."""
    return max(size for size in range(1, share + 1) if share % size == 0 and (size <= bound or size == 1))


def _peak_bytes(objective: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Return the peak memory of a forward and backward pass, weights and gradients included."""
    devices.reset_peak_memory(device)
    objective(torch.zeros(shape, dtype=torch.int64, device=device)).backward()
    objective.zero_grad(set_to_none=True)
    return devices.peak_memory(device)


def _bytes_to_come(objective: nn.Module, optimizers: list[Optimizer]) -> int:
    """Return the size of what the first steps will add: the optimizers' moments, and gradients before their exchange.

    Muon keeps one moment and AdamW two. With sharded weights every worker keeps complete gradients until a step's last
    micro-batch.
    """
    moments = sum(
        (1 if isinstance(optimizer, Muon) else 2) * local_part(parameter).nbytes
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    waiting = sum(parameter.nbytes for parameter in objective.parameters() if isinstance(parameter, DTensor))
    return moments + waiting
