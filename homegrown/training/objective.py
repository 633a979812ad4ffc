"""What is minimised, as one module that all workers share: copies of it (DDP) or parts of it (FSDP2)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from homegrown.config.recipe import Parallel
from homegrown.data.rows import parts
from homegrown.model.transformer import Transformer
from homegrown.training.distributed import Worker


class NextToken(nn.Module):
    """The objective as a module, so that workers can exchange gradients and weights around its forward pass."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> Tensor:
        """Return the summed loss in nats of int64 `windows`, [rows, context + 1] or as `parts` takes them."""
        return self.model.loss(*parts(windows))


def share(model: Transformer, worker: Worker, parallel: Parallel) -> nn.Module:
    """Return the objective of `model`, whose gradients are then averaged over all workers.

    With `fsdp` (Zhao et al. 2023; in PyTorch's second form) the model's weights become DTensors of which each worker
    holds a part: a block is made whole while it computes, the embedding with the rest for the whole pass, since the
    loss needs it last and first. Weights stay float32 and autocast chooses the type of products, as with `ddp`, so that
    both compute the same.
    """
    objective = NextToken(model)
    if worker.count == 1:
        return objective
    if parallel == "ddp":
        ids = [worker.device.index] if worker.kind == "cuda" else None
        return DistributedDataParallel(objective, ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    for block in model.model.layers:
        fully_shard(block)
    fully_shard(objective)
    return objective


def accumulating(objective: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return a context for one micro-batch, of which only the `last` of a step makes workers exchange gradients."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(last)
    if isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return nullcontext()


def clip_gradients(model: nn.Module, norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `norm`, and return what it was, a scalar."""
    before = nn.utils.clip_grad_norm_(model.parameters(), norm)
    return before.full_tensor() if isinstance(before, DTensor) else before


def held(tensor: Tensor) -> Tensor:
    """Return what this worker holds of a tensor, sharded or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def whole(objective: nn.Module) -> Iterator[None]:
    """Give every worker all weights for the block, so that each may run the model alone and as often as it likes."""
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
