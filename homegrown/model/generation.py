"""Writing new tokens: batched, with a KV cache, greedy or sampled from a seed."""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor

from homegrown.errors import UserError
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer
from homegrown.seeds import derive


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: AbstractSet[int] = frozenset(),
) -> list[list[int]]:
    """Return the new tokens after each of `prompts`, which may differ in length.

    A sequence ends at `max_new_tokens`, at the end of the model's context, or before a token of `stop_ids`, which is
    not returned. Temperature 0 is greedy; otherwise see `sample`. Each prompt has random numbers of its own, which
    depend on `seed`, the prompt, and how many equal prompts stand before it, and not on its other neighbours.

    Raises UserError if a prompt is empty or longer than the context.
    """
    _check(model, prompts)
    written: list[list[int]] = [[] for _ in prompts]
    rooms = [min(max_new_tokens, model.config.context - len(prompt)) for prompt in prompts]
    alive = [row for row, room in enumerate(rooms) if room > 0]
    if not alive:
        return written
    randomness = _generators(prompts, seed)
    was_training = model.training
    model.eval()
    cache = _cache(model, len(alive), max(len(prompts[row]) + rooms[row] for row in alive))
    counts = [len(prompts[row]) for row in alive]
    tokens = torch.zeros(len(alive), max(counts), dtype=torch.int64)
    for place, row in enumerate(alive):
        tokens[place, : counts[place]] = torch.tensor(prompts[row])
    while True:
        hidden = model.hidden_states(tokens.to(model.device), cache, counts)
        last = hidden[torch.arange(len(alive)), torch.tensor(counts) - 1]
        uniforms = torch.tensor([randomness[row].random() for row in alive], dtype=torch.float32)
        chosen = sample(model.logits(last).float(), temperature, top_k, top_p, uniforms.to(model.device)).tolist()
        going = []
        for place, row in enumerate(alive):
            if chosen[place] in stop_ids:
                continue
            written[row].append(chosen[place])
            if len(written[row]) < rooms[row]:
                going.append(place)
        if not going:
            break
        if len(going) < len(alive):
            cache.keep(going)
            alive = [alive[place] for place in going]
        tokens = torch.tensor([[chosen[place]] for place in going])
        counts = [1] * len(going)
    model.train(was_training)
    return written


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float, uniforms: Tensor) -> Tensor:
    """Return int64 [rows], one token for each row of float32 `logits` [rows, vocabulary].

    Temperature 0 takes the likeliest. Otherwise softmax(logits / temperature) is cut to the `top_k` likeliest tokens
    (0: all; Fan et al. 2018) and to the fewest whose probabilities reach `top_p` (Holtzman et al. 2020), and the token
    is where the cumulative distribution passes the row's number of `uniforms`, float32 [rows] in [0, 1).
    """
    if temperature == 0:
        return logits.argmax(1)
    kept = min(top_k or logits.shape[1], logits.shape[1])
    probabilities, ids = (logits / temperature).softmax(1).topk(kept)
    if top_p < 1:
        before = probabilities.cumsum(1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    cumulative = probabilities.cumsum(1)
    passed = cumulative > (uniforms * cumulative[:, -1])[:, None]
    return ids.gather(1, passed.int().argmax(1, keepdim=True))[:, 0]


def _check(model: Transformer, prompts: Sequence[Sequence[int]]) -> None:
    for prompt in prompts:
        if not prompt:
            raise UserError("The prompt is empty; give at least one token, such as the one that starts a document.")
        if len(prompt) > model.config.context:
            raise UserError(
                f"The prompt has {len(prompt)} tokens, more than the model's context of {model.config.context}; "
                "shorten it."
            )


def _generators(prompts: Sequence[Sequence[int]], seed: int) -> list[np.random.Generator]:
    seen: Counter[tuple[int, ...]] = Counter()
    generators = []
    for prompt in map(tuple, prompts):
        generators.append(np.random.default_rng(derive(seed, "generation", seen[prompt], *prompt)))
        seen[prompt] += 1
    return generators


def _cache(model: Transformer, batch: int, capacity: int) -> KVCache:
    weight = model.model.embed_tokens.weight
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return KVCache(model.config, batch, capacity, weight.device, dtype)
