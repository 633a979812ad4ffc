"""Weights that begin with the bigrams of the text: the counts, what the model then knows, and that it is repeatable."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import ModelSettings
from homegrown.data.loader import TokenSplit
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training.initialisation import DISCOUNT, SMOOTHING, Bigrams, set_bigrams
from homegrown.util.errors import UserError


@pytest.fixture(scope="module")
def text(corpus: dict[str, Path]) -> list[int]:
    split = TokenSplit(corpus["packed"], "train")
    return split.read_at([0], split.tokens)[0].tolist()


@pytest.fixture(scope="module")
def bigrams(corpus: dict[str, Path]) -> Bigrams:
    return Bigrams.of(TokenSplit(corpus["packed"], "train"))


def begun(settings: ModelSettings, bigrams: Bigrams, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(ModelConfig.from_settings(settings.model_copy(update={"tied": False}), 512, 0.0))
    model.initialize()
    set_bigrams(model, bigrams)
    return model.eval()


def test_pairs_are_counted_in_blocks_from_all_of_the_text(bigrams: Bigrams, text: list[int]) -> None:
    length = len(text) // 16
    starts = {round((len(text) - length) * block / 15 - 0.499999) for block in range(16)}
    expected: Counter[tuple[int, int]] = Counter()
    for start in starts:
        expected.update(zip(text[start : start + length - 1], text[start + 1 : start + length], strict=True))
    counted = zip(bigrams.first.tolist(), bigrams.second.tolist(), bigrams.counts.tolist(), strict=True)
    found = {(first, second): count for first, second, count in counted}
    assert sum(found.values()) == sum(expected.values())
    assert sum(abs(found.get(pair, 0) - count) for pair, count in expected.items()) <= 0.01 * len(text)


def test_an_untrained_model_knows_about_as_much_as_the_table(
    model_settings: ModelSettings, bigrams: Bigrams, text: list[int]
) -> None:
    """The table is that of Kneser and Ney, with the engine's `SMOOTHING` besides."""
    pairs, tokens = Counter(pairwise(text)), Counter(text)
    shares = {token: (count + 0.5) / (len(text) + 0.5 * 512) for token, count in tokens.items()}
    kinds_before, kinds_after = Counter(second for _, second in pairs), Counter(first for first, _ in pairs)

    def table(first: int, second: int) -> float:
        taken = DISCOUNT * kinds_after[first] + SMOOTHING
        discounted = max(0, pairs[first, second] - DISCOUNT)
        return (discounted + taken * kinds_before[second] / len(pairs)) / (tokens[first] + SMOOTHING)

    windows = torch.tensor(text[: 32 * 100]).view(100, 32)
    targets = torch.tensor(text[1 : 32 * 100 + 1]).view(100, 32)
    seen = list(zip(windows.flatten().tolist(), targets.flatten().tolist(), strict=True))
    by_table = -sum(math.log(table(*pair)) for pair in seen) / len(seen)
    by_frequency = -sum(math.log(shares[second]) for _, second in seen) / len(seen)
    with torch.no_grad():
        by_model = begun(model_settings, bigrams).loss(windows, targets).item() / len(seen)
    assert by_model < by_table + 0.5 * (by_frequency - by_table)


def test_the_same_seed_gives_the_same_bits(model_settings: ModelSettings, bigrams: Bigrams) -> None:
    one, same, other = (begun(model_settings, bigrams, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_a_model_without_two_such_matrices_is_refused() -> None:
    for change in ("model.tied=true", "model.family=classic"):
        with pytest.raises(UserError, match="choose 'auto'"):
            load_recipe("tiny", ["training.initialisation=bigrams", change, "model.kv_heads=4"])
