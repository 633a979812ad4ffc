"""Choosing the next token from its logits: penalties, filters, the draw, and log-probabilities.

The filters follow one another as in `transformers`: temperature, top-k, top-p, min-p, typical. Each takes and returns
float32 logits [rows, vocabulary] and has one parameter for each row, [rows, 1]; what it takes out becomes -inf.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from homegrown.util.errors import UserError

_MOST = torch.finfo(torch.float32).max
_MOST_KEPT = 2**31 - 1
_COLDEST = 1e-30  # below it, float32 logits could become infinite


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token of one sequence is chosen; every default does nothing, and temperature 0 is greedy.

    Raises UserError if a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    """Among so many likeliest tokens; 0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature <= _MOST, "0 or more, and finite"),
            "top_k": (0 <= self.top_k <= _MOST_KEPT, f"0 or more, and at most {_MOST_KEPT}"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "typical_p": (0 < self.typical_p <= 1, "more than 0 and at most 1"),
            "repetition_penalty": (0 < self.repetition_penalty <= _MOST, "more than 0, and finite"),
            "frequency_penalty": (abs(self.frequency_penalty) <= _MOST, "finite"),
            "presence_penalty": (abs(self.presence_penalty) <= _MOST, "finite"),
        }
        for name, (within, wanted) in ranges.items():
            if not within:
                raise UserError(f"{name} is {getattr(self, name)}; give a number that is {wanted}.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is the one."""
        return self.temperature < _COLDEST

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


GREEDY = Sampling()


class LogProbabilities(NamedTuple):
    """Natural logarithms of the model's own probabilities, before penalties, temperature and filters."""

    chosen: float
    likeliest: list[tuple[int, float]]
    """The likeliest tokens, in their order, with theirs."""


class Seen:
    """How often each token stands in a sequence, and how often among what was written: float32 [vocabulary] each."""

    def __init__(self, prompt: Sequence[int], vocabulary: int, device: torch.device):
        self.anywhere = torch.bincount(torch.tensor(prompt, device=device), minlength=vocabulary).float()
        self.written = torch.zeros(vocabulary, device=device)

    def add(self, token: int) -> None:
        """Count a token that was written."""
        self.anywhere[token] += 1
        self.written[token] += 1


def choose(logits: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None], uniforms: Tensor) -> Tensor:
    """Return int64 [rows], the next token of each row of float32 `logits` [rows, vocabulary].

    `seen` has the counts of the rows whose settings penalise; `uniforms`, float64 [rows] in [0, 1), is the chance of
    the rows that sample.
    """
    logits = _penalised(logits, settings, seen)
    if all(one.greedy for one in settings):
        return logits.argmax(1)
    sampled = draw(filtered(logits, settings), uniforms)
    greedy = torch.tensor([one.greedy for one in settings], device=logits.device)
    return torch.where(greedy, logits.argmax(1), sampled) if greedy.any() else sampled


def filtered(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Return the logits after temperature and all filters; rows that are greedy come out as they may."""
    for name, nothing, step in _STEPS:
        values = [getattr(one, name) for one in settings]
        asked = [value != nothing for value in values]
        if any(asked):
            stepped = step(logits, torch.tensor(values, device=logits.device)[:, None])
            # Rounding could take something from a row that asked for nothing.
            logits = torch.where(torch.tensor(asked, device=logits.device)[:, None], stepped, logits)
    return logits


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return int64 [rows]: where the cumulative distribution of each row passes its number of `uniforms`."""
    # In double precision, or the rounding of a large vocabulary's sum could reach a token that was taken out.
    cumulative = logits.softmax(1).cumsum(1, dtype=torch.float64)
    target = uniforms * cumulative[:, -1]
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def log_probabilities(logits: Tensor, chosen: Sequence[int], counts: Sequence[int]) -> list[LogProbabilities]:
    """Return for each row of `logits` its chosen token's log-probability, and those of its `counts[row]` likeliest."""
    normalised = logits.log_softmax(1)
    most = min(max(counts), logits.shape[1])
    values, ids = (part.tolist() for part in normalised.topk(most))
    own = normalised.gather(1, torch.tensor(chosen, device=logits.device)[:, None])[:, 0].tolist()
    return [
        LogProbabilities(own[row], list(zip(ids[row][:count], values[row][:count], strict=True)))
        for row, count in enumerate(counts)
    ]


def repetition(logits: Tensor, counts: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive logits of the tokens in the text so far by the penalty, multiply negative ones (Keskar et al.
    2019, CTRL, section 4.1, in the form of `transformers`); `counts` is [rows, vocabulary].
    """
    return torch.where(counts > 0, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def frequency_and_presence(logits: Tensor, counts: Tensor, frequency: Tensor, presence: Tensor) -> Tensor:
    """Return logits - counts x frequency - (counts > 0) x presence: OpenAI's published formula.

    `counts` is [rows, vocabulary]: how often each token was written before, the prompt not counted.
    """
    return logits - counts * frequency - (counts > 0) * presence


def temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Divide the logits by the temperature; 0, which is greedy, is taken for 1."""
    return logits / temperature.masked_fill(temperature == 0, 1.0)


def top_k(logits: Tensor, kept: Tensor) -> Tensor:
    """Keep the `kept` likeliest tokens (0: all), and those that are equal to the last of them (Fan et al. 2018)."""
    size = logits.shape[1]
    kept = kept.masked_fill(kept == 0, size).clamp(max=size)
    least = logits.topk(int(kept.max()), 1).values.gather(1, kept - 1)
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, mass: Tensor) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach `mass` (Holtzman et al. 2020, nucleus sampling)."""
    ordered, ids = logits.sort(1, descending=True)
    chances = ordered.softmax(1)
    before = chances.cumsum(1) - chances
    beyond = before >= mass
    return logits.masked_fill(beyond.scatter(1, ids, beyond), -torch.inf)


def min_p(logits: Tensor, share: Tensor) -> Tensor:
    """Keep the tokens with at least `share` of the likeliest one's probability (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.amax(1, keepdim=True) + share.log(), -torch.inf)


def typical(logits: Tensor, mass: Tensor) -> Tensor:
    """Keep the fewest tokens that reach `mass`, those first whose surprise is nearest the entropy.

    Meister et al. (2023), locally typical sampling.
    """
    surprise = -logits.log_softmax(1)
    chances = logits.softmax(1)
    entropy = (chances * surprise).nansum(1, keepdim=True)
    distance, ids = (surprise - entropy).abs().sort(1)
    last = (chances.gather(1, ids).cumsum(1) < mass).sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
    beyond = distance > distance.gather(1, last)
    return logits.masked_fill(beyond.scatter(1, ids, beyond), -torch.inf)


_STEPS: tuple[tuple[str, float, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("temperature", 1.0, temperature),
    ("top_k", 0, top_k),
    ("top_p", 1.0, top_p),
    ("min_p", 0.0, min_p),
    ("typical_p", 1.0, typical),
)
"""In the order in which they are applied: the setting, the value with which the step does nothing, the step."""


def _penalised(logits: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None]) -> Tensor:
    rows = [row for row, one in enumerate(settings) if one.penalised]
    if not rows:
        return logits
    counts = [one for one in (seen[row] for row in rows) if one is not None]
    chosen = [settings[row] for row in rows]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in chosen], device=logits.device)[:, None]

    anywhere = torch.stack([one.anywhere for one in counts])
    written = torch.stack([one.written for one in counts])
    part = repetition(logits[rows], anywhere, column("repetition_penalty"))
    part = frequency_and_presence(part, written, column("frequency_penalty"), column("presence_penalty"))
    return logits.index_copy(0, torch.tensor(rows, device=logits.device), part)
