"""Initial weights: which way is chosen, heads that look back, and the bigrams of a text."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training.initialisation import (
    DISCOUNT,
    DISTANCES,
    SMOOTHING,
    Bigrams,
    choose,
    look_back,
    set_bigrams,
    share_a_direction,
)
from homegrown.util.errors import UserError

LENGTH = 24


def attention_of(model: Transformer, layer: int, tokens: torch.Tensor) -> torch.Tensor:
    """Return a layer's attention weights [heads, tokens, tokens], computed from their definition."""
    seen: list[torch.Tensor] = []
    attention, config = model.model.layers[layer].self_attn, model.config
    hook = attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(tokens[None])
    hook.remove()
    x = seen[0][0]
    angles = torch.outer(
        torch.arange(len(x)).float(), config.rope_theta ** -(torch.arange(0, config.head_size, 2) / config.head_size)
    )
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def turned(projection: torch.nn.Module) -> torch.Tensor:
        heads = projection(x).view(len(x), -1, config.head_size)
        heads = heads / heads.pow(2).mean(-1, keepdim=True).sqrt()
        return torch.complex(*heads.chunk(2, dim=-1)) * turns

    queries, keys = turned(attention.q_proj), turned(attention.k_proj)
    keys = keys.repeat_interleave(config.heads // config.kv_heads, dim=1)
    scores = torch.einsum("qhd,khd->hqk", queries, keys.conj()).real / config.head_size**0.5
    return scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf).softmax(-1)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_in_each_layer_a_head_looks_at_the_token_before_and_another_two_back(kv_heads: int) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(
        family="modern", hidden=256, layers=2, heads=4, kv_heads=kv_heads, feed_forward=64, context=LENGTH
    )
    model = Transformer(ModelConfig.from_settings(settings, 512, 0.0))
    model.initialize()
    tokens = torch.randint(512, (LENGTH,))
    before = [attention_of(model, layer, tokens) for layer in range(2)]
    look_back(model, share_a_direction(model))
    for layer in range(2):
        weights = attention_of(model, layer, tokens)
        for head, distance in zip((0, 2), DISTANCES, strict=True):
            there = weights[head].diagonal(-distance)
            assert there.mean() > 0.5
            assert before[layer][head].diagonal(-distance).mean() < 0.2
            assert (weights[head][distance:].argmax(-1) == torch.arange(LENGTH - distance)).float().mean() > 0.9


def test_a_model_of_one_head_looks_back_by_one() -> None:
    settings = ModelSettings(family="modern", hidden=64, layers=1, heads=1, kv_heads=1, feed_forward=64, context=LENGTH)
    model = Transformer(ModelConfig.from_settings(settings, 512, 0.0))
    model.initialize()
    with torch.no_grad():
        look_back(model, share_a_direction(model))
        weights = attention_of(model, 0, torch.randint(512, (LENGTH,)))[0]
    assert weights.diagonal(-1).mean() > 0.5


@pytest.mark.parametrize(
    ("tokens", "tied", "family", "beginning"),
    [
        (24 * 4 * 32, False, "modern", "bigrams"),
        (24 * 4 * 32 // 2, False, "modern", "heads"),
        (9999, True, "modern", "heads"),
        (9999, False, "classic", "random"),
    ],
)
def test_what_auto_chooses_for_24_steps_of_4_windows_of_32_tokens(
    training_settings: TrainingSettings,
    model_settings: ModelSettings,
    tokens: int,
    tied: bool,
    family: str,
    beginning: str,
) -> None:
    settings = model_settings.model_copy(update={"tied": tied, "family": family})
    assert choose(training_settings, ModelConfig.from_settings(settings, 512, 0.0), tokens) == beginning


def test_what_is_asked_for_is_chosen(training_settings: TrainingSettings, model_settings: ModelSettings) -> None:
    config = ModelConfig.from_settings(model_settings, 512, 0.0)
    for asked in ("random", "heads", "bigrams"):
        assert choose(training_settings.model_copy(update={"initialisation": asked}), config, 10) == asked


@pytest.mark.parametrize(
    ("setting", "change", "message"),
    [
        ("heads", "model.family=classic", "choose 'random'"),
        ("bigrams", "model.family=classic", "choose 'auto'"),
        ("bigrams", "model.tied=true", "choose 'auto'"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(setting: str, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("tiny", [f"training.initialisation={setting}", change, "model.kv_heads=4"])


# --- bigrams ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(corpus: dict[str, Path]) -> list[int]:
    split = TokenSplit(corpus["packed"], "train")
    return split.read_at([0], split.tokens)[0].tolist()


@pytest.fixture(scope="module")
def bigrams(corpus: dict[str, Path]) -> Bigrams:
    return Bigrams.of(TokenSplit(corpus["packed"], "train"))


def initialised(settings: ModelSettings, bigrams: Bigrams, seed: int = 0) -> Transformer:
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
        by_model = initialised(model_settings, bigrams).loss(windows, targets).item() / len(seen)
    assert by_model < by_table + 0.5 * (by_frequency - by_table)


def test_the_same_seed_gives_the_same_bits(model_settings: ModelSettings, bigrams: Bigrams) -> None:
    one, same, other = (initialised(model_settings, bigrams, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
