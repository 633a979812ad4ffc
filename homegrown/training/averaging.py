"""The average of the weights over the last steps, which is often better than the weights of any one of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

SUFFIX = "/average"
"""Ends the name of a parameter's average in a checkpoint."""


class WeightAverage:
    """The polynomial-decay average (Shamir and Zhang 2013) of trained weights, float32 and sharded like them.

    After step t the weights of step s have a share of about (s / t)^n. With n = 2 / `share` - 2 they are on average as
    old as those of a uniform average over the last `share` of the t steps. It does not depend on the number of steps
    to come, so a run that is extended or stopped early has the average of one that was planned so.
    """

    def __init__(self, parameters: Mapping[str, Tensor], share: float):
        """Start from the `parameters` themselves, by name."""
        self._parameters = list(parameters.values())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._power = 2 / share - 2
        self.tensors = dict(zip((name + SUFFIX for name in parameters), self._averages, strict=True))
        """The averages themselves by the names that they have in a checkpoint."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step`, counted from 1."""
        torch._foreach_lerp_(self._averages, self._parameters, (self._power + 1) / (self._power + step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Exchange weights and averages for the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
