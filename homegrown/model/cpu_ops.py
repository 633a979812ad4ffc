"""Custom CPU kernels with explicit gradients, which make fewer passes over memory than autograd's.

Each equals the PyTorch expression in its docstring within rounding; tests compare them. Compilers and GPUs fuse the
plain expressions themselves, so `supports` returns False there.
"""

from typing import Any

import torch
from torch import Tensor

LONGEST = 512
"""Maximum tokens for `causal_attention`, whose memory is quadratic in them. With heads of 64, forward and backward take
0.6 of the time of PyTorch's fused kernel at 256 and 512 tokens, and as long at 1,024."""


def supports(x: Tensor) -> bool:
    """Return whether these kernels apply to `x`: on a CPU, with gradients, not compiled."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Return `F.rms_norm(x, gain.shape, gain, eps)` over the last axis, in x's type."""
    normed: Tensor = _RMSNorm.apply(x, gain, eps)  # type: ignore[no-untyped-call]
    return normed


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return `layers.rotate` of x [batch, heads, tokens, head_size]; the angles are [tokens, head_size]."""
    rotated: Tensor = _Rotation.apply(x, cosines, sines)  # type: ignore[no-untyped-call]
    return rotated


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return `F.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=True)`.

    `queries` is [batch, heads, tokens, head_size], `keys` and `values` are [batch, kv_heads, tokens, head_size]. `mask`
    is added to the scores: 0 or -inf, [tokens, tokens] or [batch, 1, tokens, tokens], in the queries' type.
    """
    mixed: Tensor = _Attention.apply(queries, keys, values, mask)  # type: ignore[no-untyped-call]
    return mixed


def causal_mask(tokens: int, dtype: torch.dtype) -> Tensor:
    """Return the [tokens, tokens] mask that hides later tokens: 0 or -inf."""
    return torch.full((tokens, tokens), -torch.inf, dtype=dtype).triu_(1)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bool mask as one to add to scores: 0 where it is True and -inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        size, precise = x.shape[-1], torch.promote_types(x.dtype, torch.float32)
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
        scale = norms.square_().div_(size).add_(eps).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, gain, scale)
        normed: Tensor = (x * scale).mul_(gain.to(x.dtype))
        return normed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (towards,) = upstream
        x, gain, scale = ctx.saved_tensors
        normed = x * scale
        per_gain = None
        if ctx.needs_input_grad[1]:  # a base under an adapter is frozen
            per_gain = (towards * normed).flatten(0, -2).sum(0, dtype=torch.float32).to(gain.dtype)
        towards = towards * gain.to(x.dtype)
        along = (towards * normed).mean(-1, keepdim=True)
        return towards.addcmul_(normed, along, value=-1).mul_(scale), per_gain, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _rotated(x, cosines, sines, 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (towards,) = upstream
        cosines, sines = ctx.saved_tensors
        return _rotated(towards, cosines, sines, -1), None, None


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    rotated = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(x, cosines, out=rotated)
    rotated[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-direction)
    rotated[..., half:].addcmul_(x[..., :half], sines[..., half:], value=direction)
    return rotated


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        batch, heads, tokens, size = queries.shape
        shared = batch * keys.shape[1]
        # Queries that share a head of keys are rows of one product, so keys are not repeated.
        ctx.scale, ctx.shape = size**-0.5, (batch, heads, tokens, size)
        queries = queries.reshape(shared, -1, size) * ctx.scale
        keys, values = keys.reshape(shared, tokens, size), values.reshape(shared, tokens, size)
        scores = torch.bmm(queries, keys.transpose(1, 2)).view(batch, heads, tokens, tokens)
        weights = scores.add_(mask).softmax(-1).view(shared, -1, tokens)
        ctx.save_for_backward(queries, keys, values, weights)
        return torch.bmm(weights, values).view(batch, heads, tokens, size)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, weights = ctx.saved_tensors
        batch, heads, tokens, size = ctx.shape
        towards = upstream[0].reshape(len(keys), -1, size)
        to_values = torch.bmm(weights.transpose(1, 2), towards)
        to_weights = torch.bmm(towards, values.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_queries = torch.bmm(to_scores, keys).mul_(ctx.scale).view(batch, heads, tokens, size)
        to_keys = torch.bmm(to_scores.transpose(1, 2), queries)
        return to_queries, to_keys.view(batch, -1, tokens, size), to_values.view(batch, -1, tokens, size), None
