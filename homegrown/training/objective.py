"""The objective as one module, replicated over the workers (DDP) or sharded (FSDP2)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from homegrown.config.compute import Parallel
from homegrown.training.distributed import Worker
from homegrown.training.next_token import Objective


def distribute(objective: Objective, worker: Worker, parallel: Parallel) -> nn.Module:
    """Return the objective with the gradients of its model averaged over all workers.

    With `fsdp` (Zhao et al. 2023; PyTorch's FSDP2) the model's weights become DTensors, sharded over the workers: a
    block is gathered while it computes; embedding and norm stay gathered for the entire pass, since it needs them first
    and last. Weights stay float32 and autocast chooses the type of products, as with `ddp`: both compute the same.
    """
    if worker.count == 1:
        return objective
    if parallel == "ddp":
        ids = None if worker.kind == "cpu" else [worker.device.index]
        return DistributedDataParallel(objective, ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    for block in objective.model.model.layers:
        fully_shard(block)
    fully_shard(objective)
    return objective


def accumulating(objective: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return a context for one micro-batch; workers exchange gradients only in the `last` of a step."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(last)
    if isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return nullcontext()


def clip_gradients(optimizers: Sequence[Optimizer], norm: float) -> Tensor:
    """Scale the gradients of each optimizer to a norm of at most `norm`; return that of all before, a scalar.

    In the first steps of a small model the gradients of its hidden matrices had norms up to 12, those of all else at
    most 0.7: with one norm for both, Muon's matrices slow down AdamW's embeddings.
    """
    before = [_clipped([one for group in each.param_groups for one in group["params"]], norm) for each in optimizers]
    total: Tensor = torch.stack(before).norm()
    return total


def _clipped(parameters: list[nn.Parameter], norm: float) -> Tensor:
    before = nn.utils.clip_grad_norm_(parameters, norm)
    return before.full_tensor() if isinstance(before, DTensor) else before


def local_part(tensor: Tensor) -> Tensor:
    """Return this worker's part of a tensor, sharded or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def unsharded(objective: nn.Module) -> Iterator[None]:
    """Gather all weights in every worker for the block: each may then run the model alone and as often as it likes."""
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not objective, recurse=False)
            module.reshard()
