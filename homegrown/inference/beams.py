"""Beam search: the likeliest continuations as wholes, rather than token by token."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from homegrown.inference.engine import allocate, check, step_of
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError

EarlyStopping = Literal["first", "likely", "never"]
"""When to stop. `first`: with as many finished beams as were asked for. `likely`: when no open beam would be better
than the worst of them if it ended now. `never`: when none can be, at any length. In `transformers` these are True,
False and "never"."""

_MOST_PENALTY = 20  # beyond it, the power of a long text's length is no float any more


@dataclass(frozen=True)
class Beam:
    """A finished continuation, without its stop token, and its score: log-probability / length^length_penalty."""

    tokens: list[int]
    score: float


@dataclass
class _Search:
    """The finished beams of one search, best first, and whether they are all that there will be."""

    width: int
    room: int
    length_penalty: float
    early_stopping: EarlyStopping
    finished: list[Beam] = field(default_factory=list)

    def score(self, log_probability: float, length: int) -> float:
        score: float = log_probability / length**self.length_penalty
        return score

    def finish(self, tokens: list[int], score: float) -> None:
        self.finished = sorted([*self.finished, Beam(tokens, score)], key=lambda beam: -beam.score)[: self.width]

    def over(self, best: float, length: int) -> bool:
        """Say whether open beams, the best with the log-probability `best`, can still change the result."""
        if len(self.finished) < self.width:
            return False
        if self.early_stopping == "first":
            return True
        longest = self.early_stopping == "never" and self.length_penalty > 0
        return self.score(best, self.room if longest else length) <= self.finished[-1].score


@torch.inference_mode()
def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = "likely",
    stop_ids: AbstractSet[int] = frozenset(),
) -> list[Beam]:
    """Return the `beams` best continuations of `prompt` that the search finds, best first.

    Of each step's continuations the likeliest `beams` that do not end stay open; those that end, with a token of
    `stop_ids`, at `max_new_tokens` or with the context, compete by score. A length penalty above 0 favours longer ones
    (the score is a sum of negative numbers). The results are those of beam search in `transformers`.

    Raises UserError if the prompt does not fit the context, or the vocabulary is too small for so many beams.
    """
    check(model, prompt)
    share = max(2, 1 + len(stop_ids))
    if not 1 <= beams <= model.config.vocabulary_size // share:
        raise UserError(f"{beams} beams are asked for; give between 1 and {model.config.vocabulary_size // share}.")
    if not abs(length_penalty) <= _MOST_PENALTY:
        raise UserError(f"length_penalty is {length_penalty}; give between {-_MOST_PENALTY} and {_MOST_PENALTY}.")
    room = min(max_new_tokens, model.config.context - len(prompt))
    if room < 1:
        return [Beam([], 0.0)]
    search = _Search(beams, room, length_penalty, early_stopping)
    cache = allocate(model, beams, len(prompt) + room)
    first = torch.tensor([list(prompt)], device=model.device)
    logits = model.logits(model.hidden_states(first, cache.part(0, 1))[:, -1])
    decode = step_of(model)
    cache.reorder(torch.zeros(beams, dtype=torch.int64, device=model.device))
    totals, written = [0.0], [list[int]()]
    for length in range(1, room + 1):
        candidates = _best(logits.float(), totals, share * beams)
        going = []
        for place, (total, parent, token) in enumerate(candidates):
            ended = token in stop_ids
            if not ended and length < room:
                going.append((total, parent, token))
            # What is beyond the width is there to go on from, should all before it end.
            elif place < beams:
                tokens = written[parent] if ended else [*written[parent], token]
                search.finish(tokens, search.score(total, length))
        going = going[:beams]
        if not going or search.over(going[0][0], length):
            break
        totals = [total for total, _, _ in going]
        written = [[*written[parent], token] for _, parent, token in going]
        cache.reorder(torch.tensor([parent for _, parent, _ in going], device=model.device))
        logits = decode([token for _, _, token in going], cache)
    return search.finished


def _best(logits: Tensor, totals: Sequence[float], kept: int) -> list[tuple[float, int, int]]:
    """Return log-probability, beam and token of the `kept` likeliest continuations of all beams, best first."""
    sums = logits.log_softmax(1) + torch.tensor(totals, device=logits.device)[:, None]
    values, places = sums.flatten().topk(min(kept, sums.numel()))
    size = logits.shape[1]
    return [(value, place // size, place % size) for value, place in zip(values.tolist(), places.tolist(), strict=True)]
