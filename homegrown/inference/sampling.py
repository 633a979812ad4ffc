"""Sampling of the next token from its logits: penalties, filters, the draw, and log-probabilities.

The filters apply in the order of `transformers`: temperature, top-k, top-p, min-p, typical. Each takes and returns
float32 logits [rows, vocabulary] and has one parameter per row, [rows, 1]; a removed token becomes -inf.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.util.errors import UserError

MAX_VALUE = torch.finfo(torch.float32).max
"""Of all parameters, which are float32 numbers."""

MAX_TOP_K = 2**31 - 1

_COLDEST = 1e-30  # below it, float32 logits could become infinite


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters of one sequence; the defaults change nothing, and temperature 0 is greedy.

    Raises UserError if a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    """Number of most likely tokens to sample from; 0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature <= MAX_VALUE, "0 or more, and finite"),
            "top_k": (0 <= self.top_k <= MAX_TOP_K, f"0 or more, and at most {MAX_TOP_K}"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "typical_p": (0 < self.typical_p <= 1, "more than 0 and at most 1"),
            "repetition_penalty": (0 < self.repetition_penalty <= MAX_VALUE, "more than 0, and finite"),
            "frequency_penalty": (abs(self.frequency_penalty) <= MAX_VALUE, "finite"),
            "presence_penalty": (abs(self.presence_penalty) <= MAX_VALUE, "finite"),
        }
        for name, (valid, expected) in ranges.items():
            if not valid:
                raise UserError(f"{name} is {getattr(self, name)}; give a number that is {expected}.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < _COLDEST

    @property
    def penalized(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


GREEDY = Sampling()


Logprobs = tuple[float | None, tuple[tuple[int, float], ...]]
"""The log-probability of the chosen token, and id and log-probability of the top tokens, most likely first."""


class Seen:
    """Token counts of a sequence, and of its generated part: float32 [vocabulary] each."""

    def __init__(self, prompt: Sequence[int], vocabulary: int, device: torch.device):
        self.anywhere = torch.bincount(torch.tensor(prompt, device=device), minlength=vocabulary).float()
        self.generated = torch.zeros(vocabulary, device=device)

    def add(self, token: int) -> None:
        """Count a generated token."""
        self.anywhere[token] += 1
        self.generated[token] += 1


def choose(logits: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None], uniforms: Tensor) -> Tensor:
    """Return int64 [rows], the next token of each row of float32 `logits` [rows, vocabulary].

    `seen` has the counts of the rows with penalties; `uniforms`, float64 [rows] in [0, 1), are the random numbers of
    the rows that sample.
    """
    logits = _penalized(logits, settings, seen)
    if all(one.greedy for one in settings):
        return logits.argmax(1)
    sampled = draw(filtered(logits, settings), uniforms)
    greedy = torch.tensor([one.greedy for one in settings], device=logits.device)
    return torch.where(greedy, logits.argmax(1), sampled) if greedy.any() else sampled


def filtered(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Return the logits after temperature and all filters; those of greedy rows are undefined."""
    for name, neutral, step in _STEPS:
        values = [getattr(one, name) for one in settings]
        active = [value != neutral for value in values]
        if any(active):
            stepped = step(logits, torch.tensor(values, device=logits.device)[:, None])
            # Rounding could remove tokens from a row whose parameter is neutral.
            logits = torch.where(torch.tensor(active, device=logits.device)[:, None], stepped, logits)
    return logits


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return int64 [rows]: the place where each row's cumulative distribution exceeds its number of `uniforms`."""
    # In double precision: the rounding of a large vocabulary's sum could select a removed token.
    cumulative = logits.softmax(1).cumsum(1, dtype=torch.float64)
    target = uniforms * cumulative[:, -1]
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def log_probabilities(logits: Tensor, chosen: Sequence[int], counts: Sequence[int]) -> list[Logprobs]:
    """Return the log-probability of each row's chosen token, and those of its `counts[row]` top tokens."""
    normalized = logits.log_softmax(1)
    most = min(max(counts), logits.shape[1])
    values, ids = (part.tolist() for part in normalized.topk(most))
    own = normalized.gather(1, torch.tensor(chosen, device=logits.device)[:, None])[:, 0].tolist()
    return [
        (own[row], tuple(zip(ids[row][:count], values[row][:count], strict=True))) for row, count in enumerate(counts)
    ]


def repetition(logits: Tensor, counts: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive logits of the tokens in the sequence by the penalty, multiply negative ones (Keskar et al. 2019,
    CTRL, section 4.1, in the form of `transformers`); `counts` is [rows, vocabulary].
    """
    return torch.where(counts > 0, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def frequency_and_presence(logits: Tensor, counts: Tensor, frequency: Tensor, presence: Tensor) -> Tensor:
    """Return logits - counts x frequency - (counts > 0) x presence: OpenAI's published formula.

    `counts` is [rows, vocabulary]: how often each token was generated, without the prompt.
    """
    return logits - counts * frequency - (counts > 0) * presence


def temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Divide the logits by the temperature; 0, which is greedy, counts as 1."""
    return logits / temperature.masked_fill(temperature == 0, 1.0)


def top_k(logits: Tensor, kept: Tensor) -> Tensor:
    """Keep the `kept` most likely tokens (0: all), and those as likely as the last of them (Fan et al. 2018)."""
    size = logits.shape[1]
    kept = kept.masked_fill(kept == 0, size).clamp(max=size)
    least = logits.topk(int(kept.max()), 1).values.gather(1, kept - 1)
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, mass: Tensor) -> Tensor:
    """Keep the smallest set of top tokens with a probability of `mass` (Holtzman et al. 2020, nucleus sampling)."""
    ordered, ids = logits.sort(1, descending=True)
    chances = ordered.softmax(1)
    before = chances.cumsum(1) - chances
    beyond = before >= mass
    return logits.masked_fill(beyond.scatter(1, ids, beyond), -torch.inf)


def min_p(logits: Tensor, share: Tensor) -> Tensor:
    """Keep the tokens with at least `share` of the top token's probability (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.amax(1, keepdim=True) + share.log(), -torch.inf)


def typical(logits: Tensor, mass: Tensor) -> Tensor:
    """Keep the smallest set of tokens with a probability of `mass`, nearest to the entropy first.

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
"""In order of application: the parameter, its neutral value, the step."""


def _penalized(logits: Tensor, settings: Sequence[Sampling], seen: Sequence[Seen | None]) -> Tensor:
    rows = [row for row, one in enumerate(settings) if one.penalized]
    if not rows:
        return logits
    counts = [one for one in (seen[row] for row in rows) if one is not None]
    chosen = [settings[row] for row in rows]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in chosen], device=logits.device)[:, None]

    anywhere = torch.stack([one.anywhere for one in counts])
    generated = torch.stack([one.generated for one in counts])
    part = repetition(logits[rows], anywhere, column("repetition_penalty"))
    part = frequency_and_presence(part, generated, column("frequency_penalty"), column("presence_penalty"))
    return logits.index_copy(0, torch.tensor(rows, device=logits.device), part)
