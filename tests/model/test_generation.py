"""The cache and generation against plain forward passes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homegrown.errors import UserError
from homegrown.model.cache import KVCache
from homegrown.model.generation import generate, sample

PROMPTS = [[5, 9, 2], [100, 3, 77, 8, 8, 1, 40], [11]]


def write_without_cache(model, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_greedy_is_the_argmax_without_a_cache(make_model, family: str) -> None:
    model = make_model(family)
    written = generate(model, PROMPTS, max_new_tokens=15)
    assert written == [write_without_cache(model, prompt, 15) for prompt in PROMPTS]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=3), min_size=1, max_size=4))
def test_logits_with_a_cache_are_those_without(make_model, counts: list[list[int]]) -> None:
    """Three rows grow by pieces of different lengths; each piece is padded on the right with rubbish."""
    model = make_model("modern")
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(211, (3, 40), generator=random)
    cache = KVCache(model.config, 3, 40, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        full = model(rows)
        for piece in counts:
            before, width = list(cache.lengths), max(piece)
            tokens = torch.randint(211, (3, width), generator=random)
            for row, count in enumerate(piece):
                tokens[row, :count] = rows[row, before[row] : before[row] + count]
            logits = model(tokens, cache, piece)
            for row, count in enumerate(piece):
                expected = full[row, before[row] : before[row] + count]
                torch.testing.assert_close(logits[row, :count], expected, atol=1e-4, rtol=0)


def test_a_cache_takes_no_more_than_its_capacity(make_model) -> None:
    model = make_model("modern")
    cache = KVCache(model.config, 1, 4, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.int64), cache)
        with pytest.raises(ValueError, match="5 tokens"):
            model(torch.zeros(1, 2, dtype=torch.int64), cache)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}])
def test_a_prompt_s_result_does_not_depend_on_its_neighbours(make_model, options) -> None:
    model = make_model("modern")
    together = generate(model, PROMPTS, max_new_tokens=12, seed=4, **options)
    assert together == [generate(model, [prompt], max_new_tokens=12, seed=4, **options)[0] for prompt in PROMPTS]


def test_equal_prompts_and_seeds_sample_differently(make_model) -> None:
    model = make_model("modern")
    model.initialise()  # nearly uniform
    first, second = generate(model, [[1, 2], [1, 2]], max_new_tokens=10, temperature=1.0, seed=0)
    (other,) = generate(model, [[1, 2]], max_new_tokens=10, temperature=1.0, seed=1)
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


def test_a_stop_token_ends_one_sequence_and_is_not_returned(make_model) -> None:
    model = make_model("modern")
    free = generate(model, PROMPTS, max_new_tokens=15)
    stop = next(token for token in free[1] if token not in free[0])
    stopped = generate(model, PROMPTS, max_new_tokens=15, stop_ids={stop})
    assert stopped[0] == free[0]
    assert stopped[1] == free[1][: free[1].index(stop)]


def test_generation_ends_with_the_context(make_model) -> None:
    model = make_model("modern", context=16)
    written = generate(model, [[1] * 16, [1] * 14, [2]], max_new_tokens=100)
    assert [len(tokens) for tokens in written] == [0, 2, 15]


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([1] * 49, "49 tokens")])
def test_a_prompt_that_does_not_fit_is_the_user_s_to_mend(make_model, prompt: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(make_model("modern"), [[1], prompt], max_new_tokens=1)


def test_generation_leaves_the_model_in_its_mode(make_model) -> None:
    model = make_model("modern").train()
    generate(model, [[1]], max_new_tokens=2)
    assert model.training


PROBABILITIES = [0.05, 0.4, 0.1, 0.3, 0.15]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (2, 1.0, {1, 3}),
        (0, 0.4, {1}),  # the likeliest reaches it alone
        (0, 0.69, {1, 3}),
        (0, 0.71, {1, 3, 4}),
        (2, 0.71, {1, 3}),
        (99, 0.01, {1}),
    ],
)
def test_sampling_keeps_the_nucleus_in_proportion(top_k: int, top_p: float, kept: set[int]) -> None:
    draws = 4000
    logits = torch.tensor(PROBABILITIES).log().expand(draws, -1)
    uniforms = torch.arange(draws) / draws
    frequency = sample(logits, 1.0, top_k, top_p, uniforms).bincount(minlength=5) / draws
    mass = sum(PROBABILITIES[token] for token in kept)
    expected = [PROBABILITIES[token] / mass if token in kept else 0.0 for token in range(5)]
    assert frequency.tolist() == pytest.approx(expected, abs=2e-3)


def test_temperature_sharpens_by_powers() -> None:
    draws = 4000
    logits = torch.tensor(PROBABILITIES).log().expand(draws, -1)
    frequency = sample(logits, 0.5, 0, 1.0, torch.arange(draws) / draws).bincount(minlength=5) / draws
    squares = [probability**2 for probability in PROBABILITIES]
    assert frequency.tolist() == pytest.approx([square / sum(squares) for square in squares], abs=2e-3)
