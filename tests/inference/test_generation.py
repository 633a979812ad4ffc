"""The cache and generation against plain forward passes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homegrown.inference.generation import generate
from homegrown.inference.sampling import Sampling
from homegrown.model.cache import KVCache
from homegrown.util.errors import UserError

PROMPTS = [[5, 9, 2], [100, 3, 77, 8, 8, 1, 40], [11]]


def generate_without_cache(model, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_greedy_is_the_argmax_without_a_cache(make_model, family: str) -> None:
    model = make_model(family)
    generated = generate(model, PROMPTS, max_tokens=15)
    assert generated == [generate_without_cache(model, prompt, 15) for prompt in PROMPTS]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=3), min_size=1, max_size=4))
def test_logits_with_a_cache_are_those_without(make_model, counts: list[list[int]]) -> None:
    """Three rows grow by chunks of different lengths; each chunk is padded on the right with random tokens."""
    model = make_model("modern")
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(211, (3, 40), generator=random)
    cache = KVCache(model.config, 3, 40, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        full = model(rows)
        for chunk in counts:
            before, width = list(cache.lengths), max(chunk)
            tokens = torch.randint(211, (3, width), generator=random)
            for row, count in enumerate(chunk):
                tokens[row, :count] = rows[row, before[row] : before[row] + count]
            logits = model(tokens, cache, chunk)
            for row, count in enumerate(chunk):
                expected = full[row, before[row] : before[row] + count]
                torch.testing.assert_close(logits[row, :count], expected, atol=1e-4, rtol=0)


def test_rows_join_and_leave_without_effect_on_others(make_model) -> None:
    """A row leaves, the last takes its place, a new one is prefilled behind it; all continue as if alone."""
    model = make_model("modern")
    rows = torch.randint(211, (4, 12), generator=torch.Generator().manual_seed(2))
    cache = KVCache(model.config, 3, 20, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        model(rows[:3, :8], cache, [4, 6, 8])
        cache.free(0, 2)
        model(rows[3:, :5], cache.part(2, 3))
        assert cache.lengths.tolist() == [8, 6, 5]
        logits = model(torch.stack([rows[2, 8:9], rows[1, 6:7], rows[3, 5:6]]), cache)[:, -1]
        expected = [model(rows[None, row, :count])[0, -1] for row, count in ((2, 9), (1, 7), (3, 6))]
        torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=0)


def test_a_cache_takes_no_more_than_its_capacity(make_model) -> None:
    model = make_model("modern")
    cache = KVCache(model.config, 1, 4, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.int64), cache)
        with pytest.raises(ValueError, match="5 tokens"):
            model(torch.zeros(1, 2, dtype=torch.int64), cache)


OPTIONS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3, "presence_penalty": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_prompt_s_result_does_not_depend_on_its_neighbours(make_model, options) -> None:
    model, sampling = make_model("modern"), Sampling(**options)
    together = generate(model, PROMPTS, max_tokens=12, seed=4, sampling=sampling)
    alone = [generate(model, [prompt], max_tokens=12, seed=4, sampling=sampling)[0] for prompt in PROMPTS]
    assert together == alone


def test_equal_prompts_and_seeds_sample_differently(make_model) -> None:
    model = make_model("modern")
    model.initialize()  # nearly uniform
    sampling = Sampling(temperature=1.0)
    first, second = generate(model, [[1, 2], [1, 2]], max_tokens=10, sampling=sampling, seed=0)
    (other,) = generate(model, [[1, 2]], max_tokens=10, sampling=sampling, seed=1)
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


def test_a_stop_token_ends_one_sequence_and_is_not_returned(make_model) -> None:
    model = make_model("modern")
    free = generate(model, PROMPTS, max_tokens=15)
    stop = next(token for token in free[1] if token not in free[0])
    stopped = generate(model, PROMPTS, max_tokens=15, stop_ids={stop})
    assert stopped[0] == free[0]
    assert stopped[1] == free[1][: free[1].index(stop)]


def test_generation_ends_with_the_context(make_model) -> None:
    model = make_model("modern", context=16)
    generated = generate(model, [[1] * 16, [1] * 14, [2]], max_tokens=100)
    assert [len(tokens) for tokens in generated] == [0, 2, 15]


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([1] * 49, "49 tokens exceeds")])
def test_a_prompt_that_does_not_fit_is_a_user_error(make_model, prompt: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(make_model("modern"), [[1], prompt], max_tokens=1)


def test_generation_leaves_the_model_in_its_mode(make_model) -> None:
    model = make_model("modern").train()
    generate(model, [[1]], max_tokens=2)
    assert model.training
