"""A model's embedding and output projection from the bigrams of its text, so that training begins where those end.

How often one token follows another is counted in seconds, over far more text than a short run trains on; gradients take
minutes to say the same. The embedding is the leading singular vectors of the table of pointwise mutual information, as
in Levy and Goldberg (2014), and the output projection the least-squares map from it to the logarithm of the table. A
model of untrained blocks, which add little to what they are given, then predicts about as well as that table.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from homegrown.model.transformer import Transformer
from homegrown.tokens.loader import TokenSplit

MOST_TOKENS = 10_000_000
"""Tokens counted, in blocks spread evenly over the text: about a second and 300 MB."""
BLOCKS = 16
DISCOUNT = 0.75
"""Taken off each count, most of the single ones, which say little (absolute discounting: Ney et al. 1994)."""
SMOOTHING = 10.0
"""Tokens that each row of the table is thought to have besides its own and what is taken off their counts."""
RATE_SHARE = 0.125
"""Share of AdamW's learning rate for matrices that begin so: what they know need not be learned again."""
DEVIATION = 0.3
"""Root mean square of the embedding's numbers: large beside what untrained blocks add and one step of AdamW moves."""
_CONSTANT = 0.3
"""Share of an embedding's length that all tokens have in common: what the frequencies of tokens are read from."""
_RIDGE = 1e-4


@dataclass(frozen=True)
class Bigrams:
    """How often a token follows another: `counts` of the pairs (`first`, `second`), and of each token, `tokens`."""

    first: Tensor
    second: Tensor
    counts: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, split: TokenSplit) -> "Bigrams":
        """Count the pairs of a split's tokens."""
        size = split.vocabulary_size
        length = max(2, min(split.tokens, MOST_TOKENS) // BLOCKS)
        starts = np.unique(np.linspace(0, split.tokens - length, BLOCKS, dtype=np.int64))
        blocks = split.read_at(starts.tolist(), length)
        pairs, counts = np.unique(blocks[:, :-1] * size + blocks[:, 1:], return_counts=True)
        tokens = np.bincount(blocks.ravel(), minlength=size)
        return cls(
            torch.from_numpy(pairs // size),
            torch.from_numpy(pairs % size),
            torch.from_numpy(counts).float(),
            torch.from_numpy(tokens).float(),
        )


@torch.no_grad()
def initialise(model: Transformer, bigrams: Bigrams) -> Tensor:
    """Set the embedding and the output projection, which must be two matrices, on the CPU.

    Returns the direction, float32 [hidden], that all embeddings have in common.

    The table is smoothed as by Kneser and Ney (1995). With c(i, j) the discounted count of a pair, s(i) what was taken
    off the counts of row i and `SMOOTHING`, and p(j) the share of all kinds of pair that end in j, it holds the
    logarithm of c(i, j) + s(i) p(j) over the row's sum. But for a number for each row, to which a softmax is
    indifferent, that is log p(j) plus log(1 + c(i, j) / (s(i) p(j))), a sparse matrix: 0 for pairs that do not occur.
    """
    size, hidden = model.model.embed_tokens.weight.shape
    weight = bigrams.tokens + 1
    shares = torch.bincount(bigrams.second, minlength=size) + 0.5
    shares /= shares.sum()
    smoothing = SMOOTHING + DISCOUNT * torch.bincount(bigrams.first, minlength=size)
    information = torch.log1p((bigrams.counts - DISCOUNT) / (smoothing[bigrams.first] * shares[bigrams.second]))
    # Rows count as often as their token occurs: the square root here, since it is squared in the norm.
    table = _sparse(bigrams.first, bigrams.second, information * weight[bigrams.first].sqrt(), size)
    rank = min(hidden - 1, size)
    left, values, _ = torch.svd_lowrank(table, q=rank, niter=1)
    directions = left * values.sqrt() / weight.sqrt()[:, None]
    directions /= directions.norm(dim=1, keepdim=True).clamp(min=1e-8)
    rows = torch.zeros(size, hidden)
    rows[:, 0] = _CONSTANT
    rows[:, 1 : rank + 1] = directions * math.sqrt(1 - _CONSTANT**2)
    # Turned at random, so that no single place of the residual stream holds more than the others.
    turn: Tensor = torch.linalg.qr(torch.randn(hidden, hidden)).Q
    rows = rows @ turn * math.sqrt(hidden)
    weighted = rows * weight[:, None]
    square = weighted.T @ rows
    square += _RIDGE * square.diagonal().mean() * torch.eye(hidden)
    towards = _sparse(bigrams.second, bigrams.first, information, size) @ weighted
    towards += shares.log()[:, None] * weighted.sum(0)
    model.output_weight.copy_(torch.linalg.solve(square, towards.T).T)
    model.model.embed_tokens.weight.copy_(rows * DEVIATION)
    return turn[0]


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, size: int) -> Tensor:
    """Return a square matrix that is 0 but for `values` at `rows` and `columns`."""
    places = torch.stack([rows, columns])
    matrix = torch.sparse_coo_tensor(places, values, (size, size), check_invariants=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this layout, four times as fast here, is in beta
        return matrix.to_sparse_csr()
