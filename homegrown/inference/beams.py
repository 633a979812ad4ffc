"""Beam search: the most likely completions as wholes, rather than token by token."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homegrown.inference.engine import allocate, check, step_of
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Beam:
    """A finished completion without its stop token, and its score: the mean log-probability of its tokens."""

    tokens: list[int]
    score: float


@dataclass
class _Finished:
    """The best finished beams of a search, best first."""

    width: int
    beams: list[Beam] = field(default_factory=list)

    def add(self, tokens: list[int], score: float) -> None:
        self.beams = sorted([*self.beams, Beam(tokens, score)], key=lambda beam: -beam.score)[: self.width]

    def final(self, score: float) -> bool:
        """Return whether no open beam can change the result; `score` is the best of them if it ended now."""
        return len(self.beams) == self.width and score <= self.beams[-1].score


@torch.inference_mode()
def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    beams: int,
    max_tokens: int,
    stop_ids: AbstractSet[int] = frozenset(),
) -> list[Beam]:
    """Return the `beams` best completions of `prompt`, best first.

    In each step the `beams` most likely continuations that do not end stay open; those that end, with a token of
    `stop_ids`, at `max_tokens` or with the context, compete by score. The results equal those of beam search in
    `transformers` with its defaults.

    Raises UserError if the prompt does not fit the context, or the vocabulary is too small for that many beams.
    """
    check(model, prompt)
    share = max(2, 1 + len(stop_ids))
    if not 1 <= beams <= model.config.vocabulary_size // share:
        raise UserError(f"beams is {beams}; give a number between 1 and {model.config.vocabulary_size // share}.")
    longest = min(max_tokens, model.config.context - len(prompt))
    if longest < 1:
        return [Beam([], 0.0)]
    finished = _Finished(beams)
    cache = allocate(model, beams, len(prompt) + longest)
    first = torch.tensor([list(prompt)], device=model.device)
    logits = model.logits(model.hidden_states(first, cache.part(0, 1))[:, -1])
    decode = step_of(model)
    cache.reorder(torch.zeros(beams, dtype=torch.int64, device=model.device))
    totals, generated = [0.0], [list[int]()]
    for length in range(1, longest + 1):
        candidates = _best(logits.float(), totals, share * beams)
        open_beams = []
        for rank, (total, parent, token) in enumerate(candidates):
            ended = token in stop_ids
            if not ended and length < longest:
                open_beams.append((total, parent, token))
            # Candidates beyond the width only replace those before them that end.
            elif rank < beams:
                tokens = generated[parent] if ended else [*generated[parent], token]
                finished.add(tokens, total / length)
        open_beams = open_beams[:beams]
        if not open_beams or finished.final(open_beams[0][0] / length):
            break
        totals = [total for total, _, _ in open_beams]
        generated = [[*generated[parent], token] for _, parent, token in open_beams]
        cache.reorder(torch.tensor([parent for _, parent, _ in open_beams], device=model.device))
        logits = decode([token for _, _, token in open_beams], cache)
    return finished.beams


def _best(logits: Tensor, totals: Sequence[float], kept: int) -> list[tuple[float, int, int]]:
    """Return log-probability, beam and token of the `kept` most likely continuations of all beams, best first."""
    sums = logits.log_softmax(1) + torch.tensor(totals, device=logits.device)[:, None]
    values, places = sums.flatten().topk(min(kept, sums.numel()))
    size = logits.shape[1]
    return [(value, place // size, place % size) for value, place in zip(values.tolist(), places.tolist(), strict=True)]
