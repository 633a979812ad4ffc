"""Attention heads that look at the token before, or at the one before that, from the first step on.

Models learn such previous-token heads early, since much else builds on them (Olsson et al. 2022, on induction heads),
but it takes them some hundred steps, which is all that a short run has. Rotary positions can say "one place back" at
once: a query and a key that are the same for all tokens are turned by their places alone, so that their product depends
on the distance only, and can be given its peak where it is wanted.
"""

import math

import torch
from torch import Tensor

from homegrown.model.layers import Attention
from homegrown.model.transformer import Transformer

DISTANCES = (1, 2)
"""Places back, each for one head of every layer; heads that share no key, where there are such."""
STRENGTH = 0.2
"""Size of what is added to the projections; ten times the deviation that their numbers are drawn with."""
_COMMON = 0.02
"""Root mean square of what embeddings drawn at random are given in common: as large as they are."""


@torch.no_grad()
def share_a_direction(model: Transformer) -> Tensor:
    """Add one random vector to all embeddings, and return its direction, float32 [hidden].

    A tied output projection has it too, where it adds the same to the logits of all tokens, which a softmax ignores.
    """
    direction = torch.nn.functional.normalize(torch.randn(model.config.hidden), dim=0)
    model.model.embed_tokens.weight += direction * (_COMMON * math.sqrt(model.config.hidden))
    return direction


@torch.no_grad()
def look_back(model: Transformer, direction: Tensor) -> None:
    """Make heads of each layer look back by `DISTANCES`; all embeddings have the `direction` [hidden] in common.

    With the share w(i) of their length in the dimensions that turn by an angle a(i) for each place, query and key of
    two tokens n places apart have the product sqrt(head size) x sum of w(i) cos((n - distance) a(i)). Shares in
    proportion to the angles make the peak narrow: a head begins with about two thirds of its attention at its distance.
    What the projections were drawn with stays, as noise that training makes something of.
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
