"""Muon, for replicated matrices and for sharded ones."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

BATCH_ELEMENTS, ACCELERATOR_BATCH_ELEMENTS = 2**20, 2**26
"""Numbers in a batch of matrices of one shape that are orthogonalized together: it saves calls for small matrices, and
fills a GPU, which a product of two matrices of a small model leaves mostly idle."""

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""The coefficients of the Newton-Schulz iteration (Jordan et al. 2024)."""


class Muon(torch.optim.Muon):
    """PyTorch's Muon with its own step, which orthogonalizes in the type `dtype`.

    PyTorch's computes in bfloat16 everywhere, which most processors only emulate: 2 cores with AVX2 took 7 seconds for
    a step of `tiny`, and take 0.15 in float32. A sharded matrix (DTensor) is gathered once for its orthogonalization:
    PyTorch's step would exchange the parts again for each product of the iteration.
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype, **defaults: Any):
        super().__init__(groups, **defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step: momentum and decay on this worker's parts, the direction from complete matrices.

        It overwrites the gradients.
        """
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, matrices, gradients, momenta)
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            torch._foreach_lerp_(gradients, momenta, group["momentum"])  # Nesterov's
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for batch in _batches(matrices):
                self._move([matrices[index] for index in batch], [gradients[index] for index in batch], group)

    def _move(self, matrices: Sequence[Tensor], directions: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Move matrices of one shape, or its transpose, along the orthogonal matrices nearest to `directions`."""
        updates = orthogonal([_gathered(direction) for direction in directions], group["ns_steps"], self._dtype)
        for matrix, update in zip(matrices, updates, strict=True):
            rows, columns = matrix.shape
            matrix.add_(_like(update, matrix), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrices: Sequence[Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Return a nearly orthogonal matrix near each of `matrices`, all [rows, columns] or [columns, rows].

    `steps` of a quintic Newton-Schulz iteration, computed in `dtype`, bring the singular values of a matrix of norm 1
    near 1: after 5 steps between 0.7 and 1.2, except very small ones (Jordan et al. 2024).
    """
    flat = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    x = torch.stack([matrix.to(dtype) for matrix in flat])
    x /= torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return [update if matrix is given else update.T for update, matrix, given in zip(x, flat, matrices, strict=True)]


def _batches(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield the indices of matrices to orthogonalize together."""
    device = matrices[0].device.type
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        alike[tuple(sorted(matrix.shape))].append(index)
    elements = BATCH_ELEMENTS if device == "cpu" else ACCELERATOR_BATCH_ELEMENTS
    for (rows, columns), indices in alike.items():
        size = max(1, elements // (rows * columns))
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _gathered(matrix: Tensor) -> Tensor:
    return matrix.full_tensor() if isinstance(matrix, DTensor) else matrix


def _like(update: Tensor, matrix: Tensor) -> Tensor:
    """Return this worker's part of the update to `matrix`."""
    if not isinstance(matrix, DTensor):
        return update
    everywhere = DTensor.from_local(update.contiguous(), matrix.device_mesh, [Replicate()], run_check=False)
    return everywhere.redistribute(placements=matrix.placements)
