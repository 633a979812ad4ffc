"""Filters and penalties against `transformers`' logits processors, the draw against its distribution."""

from collections import Counter

import pytest
import torch

from homegrown.inference import sampling
from homegrown.inference.sampling import Sampling, Seen
from homegrown.util.errors import UserError

ROWS, VOCABULARY = 40, 150
NONE = torch.zeros(1, 1, dtype=torch.int64)


@pytest.fixture(params=[0.3, 2.0, 8.0], ids=["flat", "usual", "peaked"])
def logits(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(3)) * request.param


THEIRS = [
    ({"temperature": 0.7}, [("TemperatureLogitsWarper", 0.7)]),
    ({"top_k": 12}, [("TopKLogitsWarper", 12)]),
    ({"top_k": 999}, [("TopKLogitsWarper", 999)]),
    ({"top_p": 0.83}, [("TopPLogitsWarper", 0.83)]),
    ({"top_p": 0.001}, [("TopPLogitsWarper", 0.001)]),
    ({"min_p": 0.07}, [("MinPLogitsWarper", 0.07)]),
    ({"typical_p": 0.6}, [("TypicalLogitsWarper", 0.6)]),
    (
        {"temperature": 1.4, "top_k": 60, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8},
        [
            ("TemperatureLogitsWarper", 1.4),
            ("TopKLogitsWarper", 60),
            ("TopPLogitsWarper", 0.9),
            ("MinPLogitsWarper", 0.02),
            ("TypicalLogitsWarper", 0.8),
        ],
    ),
]


@pytest.mark.parametrize(("options", "warpers"), THEIRS, ids=lambda value: str(value) if type(value) is dict else "")
def test_filters_are_those_of_transformers(logits: torch.Tensor, options, warpers) -> None:
    import transformers

    expected = logits
    for name, value in warpers:
        expected = getattr(transformers, name)(value)(NONE, expected)
    ours = sampling.filtered(logits, [Sampling(**{"temperature": 1.0, **options})] * ROWS)
    torch.testing.assert_close(ours, expected)


def test_every_row_has_settings_of_its_own(logits: torch.Tensor) -> None:
    settings = [Sampling(**{"temperature": 1.0, **THEIRS[row % len(THEIRS)][0]}) for row in range(ROWS)]
    together = sampling.filtered(logits, settings)
    alone = [sampling.filtered(logits[row, None], [settings[row]]) for row in range(ROWS)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_repetition_penalty_is_that_of_transformers(logits: torch.Tensor) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    tokens = torch.randint(VOCABULARY, (ROWS, 30), generator=torch.Generator().manual_seed(4))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(tokens, logits.clone())
    counts = torch.stack([Seen(row.tolist(), VOCABULARY, torch.device("cpu")).anywhere for row in tokens])
    torch.testing.assert_close(sampling.repetition(logits, counts, torch.tensor([[1.3]])), expected)


def test_frequency_and_presence_follow_the_published_formula(logits: torch.Tensor) -> None:
    """mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, over generated tokens, not the prompt."""
    seen, generated = Seen([7, 7, 8], VOCABULARY, torch.device("cpu")), [5, 9, 5, 5, 7]
    for token in generated:
        seen.add(token)
    one = Sampling(frequency_penalty=0.4, presence_penalty=1.1)
    counts = Counter(generated)
    expected = [value - counts[token] * 0.4 - (counts[token] > 0) * 1.1 for token, value in enumerate(logits[0])]
    best = max(range(VOCABULARY), key=lambda token: expected[token])
    assert sampling.choose(logits[:1], [one], [seen], torch.zeros(1)).tolist() == [best]
    ours = sampling.frequency_and_presence(
        logits[:1], seen.generated[None], torch.tensor([[0.4]]), torch.tensor([[1.1]])
    )
    torch.testing.assert_close(ours[0], torch.stack(expected))


PROBABILITIES = [0.05, 0.4, 0.1, 0.3, 0.15]


def frequencies(**options: float) -> list[float]:
    draws = 4000
    logits = torch.tensor(PROBABILITIES).log().expand(draws, -1)
    uniforms = torch.arange(draws, dtype=torch.float64) / draws
    chosen = sampling.choose(logits, [Sampling(**options)] * draws, [None] * draws, uniforms)
    return (chosen.bincount(minlength=5) / draws).tolist()


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (2, 1.0, {1, 3}),
        (0, 0.4, {1}),  # the most likely token alone is enough
        (0, 0.69, {1, 3}),
        (0, 0.71, {1, 3, 4}),
        (2, 0.71, {1, 3}),
        (99, 0.01, {1}),
    ],
)
def test_sampling_keeps_the_nucleus_in_proportion(top_k: int, top_p: float, kept: set[int]) -> None:
    mass = sum(PROBABILITIES[token] for token in kept)
    expected = [PROBABILITIES[token] / mass if token in kept else 0.0 for token in range(5)]
    assert frequencies(temperature=1.0, top_k=top_k, top_p=top_p) == pytest.approx(expected, abs=2e-3)


def test_temperature_sharpens_by_powers() -> None:
    squares = [probability**2 for probability in PROBABILITIES]
    expected = [square / sum(squares) for square in squares]
    assert frequencies(temperature=0.5) == pytest.approx(expected, abs=2e-3)


def test_a_random_number_near_one_draws_no_removed_token() -> None:
    logits = torch.full((1, 50_000), -torch.inf)
    logits[0, :1000] = 0.0
    assert sampling.draw(logits, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 999


def test_greedy_rows_stay_greedy_beside_others(logits: torch.Tensor) -> None:
    settings = [Sampling(temperature=float(row % 2) * 5) for row in range(ROWS)]
    chosen = sampling.choose(logits, settings, [None] * ROWS, torch.rand(ROWS, dtype=torch.float64))
    assert torch.equal(chosen[::2], logits.argmax(1)[::2])


def test_a_temperature_of_nearly_nothing_is_greedy(logits: torch.Tensor) -> None:
    settings = [Sampling(temperature=value) for value in (1e-40, 1e-300, 1e-29, 1e-6)]
    chosen = sampling.choose(logits[:4], settings, [None] * 4, torch.full((4,), 0.999, dtype=torch.float64))
    assert torch.equal(chosen, logits[:4].argmax(1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("min_p", 1.5),
        ("typical_p", 2.0),
        ("repetition_penalty", 0),
        ("temperature", float("inf")),
        ("top_k", 10**22),  # more than an int64
        ("frequency_penalty", float("nan")),
        ("presence_penalty", float("-inf")),
    ],
)
def test_a_value_out_of_range_is_a_user_error(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}"):
        Sampling(**{name: value})
