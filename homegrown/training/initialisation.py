"""Initial weights: random, with heads that look back, or with the bigrams of the text as well.

Shapes: H is the width of the residual stream, V the tokens of the vocabulary.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.model.config import ModelConfig
from homegrown.model.layers import Attention
from homegrown.model.transformer import Transformer

Initialisation = Literal["random", "heads", "bigrams"]
MOST_EPOCHS = 1.5
"""Most epochs for which the bigrams of the text help."""


def choose(settings: TrainingSettings, config: ModelConfig, tokens: int) -> Initialisation:
    """Return the initialisation for a text of so many `tokens`.

    With `auto` a modern model has heads that look back. It also has bigrams if its embedding and output are two
    matrices and it trains for hardly more than one epoch: over many epochs a table of the same text adds little, and
    makes the model trust pairs that occur by chance. benchmarks/results/sweeps.md has the figures.
    """
    if settings.initialisation != "auto":
        return settings.initialisation
    if config.family == "classic":
        return "random"
    epochs = settings.max_steps * settings.batch_size * config.context / tokens
    return "heads" if config.tied or epochs > MOST_EPOCHS else "bigrams"


def initialize(model: Transformer, chosen: Initialisation, text: TokenSplit) -> None:
    """Draw all weights from torch's global random state, on the CPU, and apply the initialisation."""
    model.initialize()
    if chosen == "bigrams":
        direction = set_bigrams(model, Bigrams.of(text))
        look_back(model, direction)
    if chosen == "heads":
        look_back(model, share_a_direction(model))


MOST_TOKENS = 10_000_000
"""Tokens counted, in blocks spread evenly over the text: about a second and 300 MB."""
BLOCKS = 16
DISCOUNT = 0.75
"""Taken off each count, most of the single ones, which say little (absolute discounting: Ney et al. 1994)."""
SMOOTHING = 10.0
"""Pseudo-counts of each row of the table, besides the discounts."""
BIGRAM_LR_SHARE = 0.125
"""Share of AdamW's learning rate for the matrices initialised from bigrams: they know their part already."""
DEVIATION = 0.3
"""Root mean square of the embedding's numbers: large beside what untrained blocks add and one step of AdamW moves."""
_CONSTANT = 0.3
"""Share of an embedding's length that all tokens have in common: it encodes the frequencies of tokens."""
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
def set_bigrams(model: Transformer, bigrams: Bigrams) -> Tensor:
    """Set the embedding [V, H] and the output projection [V, H], which must be two matrices, on the CPU.

    Returns the direction, float32 [H], that all embeddings have in common.

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
    # Rotated at random, so that no single dimension of the residual stream carries more than the others.
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
    """Return a sparse matrix [size, size] with `values` at `rows` and `columns`."""
    places = torch.stack([rows, columns])
    matrix = torch.sparse_coo_tensor(places, values, (size, size), check_invariants=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this layout, four times as fast here, is in beta
        return matrix.to_sparse_csr()


DISTANCES = (1, 2)
"""Tokens back, each for one head of every layer; heads that share no key, if possible."""
STRENGTH = 0.2
"""Size of what is added to the projections: ten times the standard deviation of their random numbers."""
_COMMON = 0.02
"""Root mean square of the vector that all random embeddings get in common: as large as they are."""


@torch.no_grad()
def share_a_direction(model: Transformer) -> Tensor:
    """Add one random vector to all embeddings, and return its direction, float32 [H].

    A tied output projection has it too: it adds the same to the logits of all tokens, which a softmax ignores.
    """
    direction = torch.nn.functional.normalize(torch.randn(model.config.hidden), dim=0)
    model.model.embed_tokens.weight += direction * (_COMMON * math.sqrt(model.config.hidden))
    return direction


@torch.no_grad()
def look_back(model: Transformer, direction: Tensor) -> None:
    """Make heads of each layer look back by `DISTANCES`; all embeddings have the `direction` [H] in common.

    With the share w(i) of their length in the dimensions that turn by an angle a(i) for each place, query and key of
    two tokens n places apart have the product sqrt(head size) x sum of w(i) cos((n - distance) a(i)). Shares in
    proportion to the angles make the peak narrow: a head starts with about two thirds of its attention at its distance.
    The random numbers of the projections stay, as noise for training to use.
    """
    config, size = model.config, model.config.head_size
    half = size // 2
    angles = config.rope_theta ** -(torch.arange(half, dtype=torch.float32) / half)
    lengths = (angles / angles.sum() * size).sqrt()
    to_key = torch.outer(torch.cat([lengths, torch.zeros(half)]), direction) * STRENGTH
    to_query = {}
    for head, distance in zip(range(0, config.heads, max(1, config.heads // len(DISTANCES))), DISTANCES, strict=False):
        query = torch.cat([lengths * torch.cos(distance * angles), -lengths * torch.sin(distance * angles)])
        to_query[head] = torch.outer(query, direction) * STRENGTH
    groups = {head * config.kv_heads // config.heads for head in to_query}
    for attention in (module for module in model.modules() if isinstance(module, Attention)):
        for head, projection in to_query.items():
            attention.q_proj.weight[head * size :][:size] += projection
        for group in groups:
            attention.k_proj.weight[group * size :][:size] += to_key
