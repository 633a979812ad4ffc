"""The custom CPU kernels against autograd on the plain expressions."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.model import cpu_ops
from homegrown.model.layers import rotary_table


def made_up(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Return the result and the gradients of every input, for made-up upstream gradients."""
    fresh = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in inputs]
    result = function(*fresh)
    result.backward(made_up(*result.shape, dtype=result.dtype).detach())
    return [result.detach(), *(tensor.grad for tensor in fresh if tensor.grad is not None)]


def plain_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=True)


def plain_rotation(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


CASES = {
    "rms_norm": (
        lambda x, gain: cpu_ops.rms_norm(x, gain, 1e-6),
        lambda x, gain: F.rms_norm(x, gain.shape, gain, 1e-6),
        lambda dtype: [made_up(2, 5, 8, dtype=dtype), made_up(8, dtype=dtype)],
    ),
    "rotate": (
        cpu_ops.rotate,
        plain_rotation,
        lambda dtype: [made_up(2, 3, 5, 8, dtype=dtype), *rotary_table(8, 5, 100.0).to(dtype)],
    ),
    "causal_attention": (
        cpu_ops.causal_attention,
        plain_attention,
        lambda dtype: [
            made_up(2, 4, 6, 8, dtype=dtype),
            made_up(2, 2, 6, 8, dtype=dtype),
            made_up(2, 2, 6, 8, dtype=dtype),
            cpu_ops.causal_mask(6, dtype),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_expression(name: str) -> None:
    ours, plain, inputs = CASES[name]
    for mine, its in zip(
        gradients(ours, *inputs(torch.float64)), gradients(plain, *inputs(torch.float64)), strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_as_near_the_truth_as_autograd(name: str) -> None:
    ours, plain, inputs = CASES[name]
    truth = gradients(plain, *inputs(torch.float64))
    for exact, mine, its in zip(
        truth, gradients(ours, *inputs(torch.bfloat16)), gradients(plain, *inputs(torch.bfloat16)), strict=True
    ):
        assert (mine.double() - exact).abs().mean() <= 2 * (its.double() - exact).abs().mean() + 1e-3


def test_a_mask_for_each_row_is_added_to_its_scores() -> None:
    queries, keys, values, causal = CASES["causal_attention"][2](torch.float64)
    mask = causal.repeat(2, 1, 1, 1)
    mask[1, 0, 3:, :3] = -torch.inf
    for mine, its in zip(
        gradients(cpu_ops.causal_attention, queries, keys, values, mask),
        gradients(plain_attention, queries, keys, values, mask),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


def test_they_apply_where_gradients_are_needed() -> None:
    x = made_up(2)
    assert cpu_ops.supports(x)
    with torch.no_grad():
        assert not cpu_ops.supports(x)
