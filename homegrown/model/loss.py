"""Cross-entropy of an output projection, a chunk of tokens at a time, so that the logits never exist as a whole."""

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens whose logits exist at once. On 2 cores, 512 is the fastest at a vocabulary of 4,096 and width 256, and within
7% of unchunked logits at 32,000 and 768; a GPU wants larger products."""

IGNORED = -100
"""A target that counts nothing and teaches nothing; the id that PyTorch's own cross-entropy leaves out."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the sum over tokens of -log softmax(hidden @ weight.T + bias)[target], a float32 scalar in nats.

    `hidden` is [tokens, hidden], `weight` [vocabulary, hidden], `targets` int64 [tokens], of which `IGNORED` is left
    out. Products are computed in autocast's type where it is on, the softmax in float32. The gradient is made together
    with the loss, chunk by chunk, as in Liger Kernel (Hsu et al. 2024), so memory holds one chunk's logits instead of
    all tokens'.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, dtype, torch.is_grad_enabled()
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        learning: bool,
    ) -> Tensor:
        rows = CHUNK_TOKENS[hidden.device.type]
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(dtype), weight.to(dtype)
            hidden_gradient = torch.empty_like(inputs) if learning else None
            # A frozen projection, as under an adapter, wants none: half of the work.
            learns = learning and ctx.needs_input_grad[1]
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if learns else None
            bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if learns and bias is not None else None
            total = torch.zeros((), device=hidden.device)
            # One buffer for all chunks: fresh pages of this size cost more than what is computed in them.
            kept = torch.empty(min(rows, len(targets)), len(weight), device=hidden.device)
            for start in range(0, len(targets), rows):
                part, expected = inputs[start : start + rows], targets[start : start + rows, None]
                # Ignored tokens: a weight of 0 on all that comes of them, all of it small beside the logits.
                counted = (expected != IGNORED).to(part.dtype)
                expected = expected.clamp(min=0)
                chances = kept[: len(part)]
                if dtype == chances.dtype:
                    logits = torch.mm(part, matrix.T, out=chances)
                else:
                    logits = torch.mm(part, matrix.T)
                    chances.copy_(logits)
                if bias is not None:
                    chances += bias
                highest, chosen = chances.amax(1, keepdim=True), chances.gather(1, expected)
                torch.softmax(chances, 1, out=chances)
                # The likeliest token's chance is exp(highest - normaliser).
                normaliser = highest - chances.amax(1, keepdim=True).log()
                total += ((normaliser - chosen) * counted).sum()
                if hidden_gradient is None:
                    continue
                chances.scatter_add_(1, expected, chances.new_full((len(part), 1), -1.0))
                if bias_gradient is not None:
                    bias_gradient += torch.mv(chances.T, counted[:, 0].to(chances.dtype))
                gradient = logits if logits is chances else logits.copy_(chances)
                torch.mm(gradient, matrix, out=hidden_gradient[start : start + rows]).mul_(counted)
                if weight_gradient is not None:
                    weight_gradient += gradient.T @ (part * counted)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        hidden, weight, bias = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        weight, bias = (None if one is None else (one * scale).to(weight_dtype) for one in (weight, bias))
        return (hidden * scale).to(hidden_dtype), weight, bias, None, None, None
