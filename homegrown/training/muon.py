"""Muon over matrices of which every worker holds a part."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Muon
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz


class ShardedMuon(Muon):
    """PyTorch's Muon for sharded matrices (DTensor): each is made whole for its orthogonalisation, and only then.

    PyTorch's own step is right for them too, but exchanges the parts again for each of the 15 products of the
    Newton-Schulz iteration: on 2 workers over gloo it took 30 times as long as an unsharded step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step: momentum and decay on the parts, the update's direction from the whole matrix."""
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, matrices, gradients, momenta)
            for matrix, gradient, momentum in zip(matrices, gradients, momenta, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
                direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = _orthogonal(direction, group)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], matrix.shape))


def _orthogonal(direction: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the orthogonal matrix near `direction`, sharded like it."""
    assert isinstance(direction, DTensor)
    whole = _zeropower_via_newtonschulz(
        direction.full_tensor(), group["ns_coefficients"], group["ns_steps"], group["eps"]
    )
    everywhere = DTensor.from_local(whole, direction.device_mesh, [Replicate()], run_check=False)
    return everywhere.redistribute(placements=direction.placements)
