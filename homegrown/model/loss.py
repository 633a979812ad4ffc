"""Cross-entropy of an output projection in chunks of tokens, so that memory never holds all logits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS, ACCELERATOR_CHUNK_TOKENS = 512, 4096
"""Tokens of a chunk. On 2 cores, 512 is the fastest at a vocabulary of 4,096 and width 256, and within 7% of unchunked
logits at 32,000 and 768; an accelerator is faster with larger products."""

ROWS, ACCELERATOR_ROWS = 1, 64
"""The rows of the output projection are padded with zeros to a multiple of this, in the products of training alone:
weights, logits and files have exactly the rows of the vocabulary. A GPU's fast products need it. A CPU gained nothing:
1,024 tokens of width 576 in bf16 took 827 ms with a vocabulary of 49,153, and 843 ms with 49,216."""

IGNORED = -100
"""A target without loss and gradient; the `ignore_index` of PyTorch's cross-entropy."""


def chunk_tokens(device: str) -> int:
    """Return the tokens of a chunk on a type of device."""
    return CHUNK_TOKENS if device == "cpu" else ACCELERATOR_CHUNK_TOKENS


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, compiled: bool = False
) -> Tensor:
    """Return the sum over tokens of -log softmax(hidden @ weight.T + bias)[target], a float32 scalar in nats.

    `hidden` is [tokens, hidden], `weight` [vocabulary, hidden], `bias` [vocabulary], `targets` int64 [tokens];
    `IGNORED` targets are skipped. Products are computed in autocast's type if it is on, the softmax in float32. The
    gradient is computed with the loss, chunk by chunk, as in Liger Kernel (Hsu et al. 2024), so memory holds the logits
    of one chunk. With `compiled`, a GPU runs the operations between a chunk's products compiled, in one pass over the
    logits instead of ten.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, dtype, torch.is_grad_enabled(), compiled and device != "cpu" and bias is None
    )
    return loss


def softmax_loss(logits: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each token, float32 [tokens, 1], and its gradient by the logits, in their type.

    `logits` are [tokens, vocabulary], `expected` int64 [tokens, 1]. A compiler fuses it into two passes.
    """
    wide = logits.float()
    normalizer = wide.logsumexp(1, keepdim=True)
    hits = torch.arange(logits.shape[1], device=logits.device) == expected
    return normalizer - wide.gather(1, expected), ((wide - normalizer).exp() - hits.float()).to(logits.dtype)


@cache
def _compiled() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(softmax_loss)


def _softmax_loss(logits: Tensor, expected: Tensor, chances: Tensor, learning: bool) -> tuple[Tensor, Tensor]:
    """Return the results of `softmax_loss`, computed in place because memory traffic dominates.

    `chances` is a float32 copy of `logits`, or `logits` itself. It becomes the gradient if `learning`, and otherwise
    the second result is unused.
    """
    highest, chosen = chances.amax(1, keepdim=True), chances.gather(1, expected)
    torch.softmax(chances, 1, out=chances)
    # The highest probability is exp(highest - normalizer).
    normalizer = highest - chances.amax(1, keepdim=True).log()
    if learning:
        chances.scatter_add_(1, expected, chances.new_full((len(chances), 1), -1.0))
        logits = logits if logits is chances else logits.copy_(chances)
    return normalizer - chosen, logits


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
        compiled: bool,
    ) -> Tensor:
        rows = chunk_tokens(hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(dtype), _padded(weight, dtype)
            size, width = len(weight), len(matrix)
            hidden_gradient = torch.empty_like(inputs) if learning else None
            # A frozen projection, as under an adapter, needs no gradient, which halves the work.
            learns = learning and ctx.needs_input_grad[1]
            weight_gradient = torch.zeros_like(matrix, dtype=torch.float32) if learns else None
            bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if learns and bias is not None else None
            total = torch.zeros((), device=hidden.device)
            # One buffer for all chunks: allocating pages of this size costs more than computing in them.
            kept = torch.empty(0 if compiled else min(rows, len(targets)), width, device=hidden.device)
            for start in range(0, len(targets), rows):
                part, expected = inputs[start : start + rows], targets[start : start + rows, None]
                # Results of ignored tokens are multiplied by 0; they are small compared with the logits.
                counted = (expected != IGNORED).to(part.dtype)
                expected = expected.clamp(min=0)
                if compiled:
                    logits = torch.mm(part, matrix.T)
                    logits[:, size:] = -torch.inf
                    nats, gradient = _compiled()(logits, expected)
                else:
                    chances = kept[: len(part)]
                    if dtype == chances.dtype:
                        logits = torch.mm(part, matrix.T, out=chances)
                    else:
                        logits = torch.mm(part, matrix.T)
                        chances.copy_(logits)
                    chances[:, size:] = -torch.inf
                    if bias is not None:
                        chances[:, :size] += bias
                    nats, gradient = _softmax_loss(logits, expected, chances, learning)
                    if bias_gradient is not None:
                        bias_gradient += torch.mv(chances.T, counted[:, 0].to(chances.dtype))[:size]
                total += (nats * counted).sum()
                if hidden_gradient is None:
                    continue
                torch.mm(gradient, matrix, out=hidden_gradient[start : start + rows]).mul_(counted)
                if weight_gradient is not None:
                    weight_gradient += gradient.T @ (part * counted)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.size = size
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        hidden, weight, bias = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        weight, bias = (None if one is None else (one[: ctx.size] * scale).to(weight_dtype) for one in (weight, bias))
        return (hidden * scale).to(hidden_dtype), weight, bias, None, None, None, None


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight in `dtype`, with rows of zeros up to a multiple of `ROWS`."""
    missing = -len(weight) % (ROWS if weight.device.type == "cpu" else ACCELERATOR_ROWS)
    if not missing:
        return weight.to(dtype)
    padded = weight.new_zeros((len(weight) + missing, weight.shape[1]), dtype=dtype)
    padded[: len(weight)] = weight
    return padded
