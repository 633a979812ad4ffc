"""How weights begin: which way is chosen, and that heads that look back do."""

import pytest
import torch

from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import ModelSettings, TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training.initialisation import DISTANCES, choose, look_back, share_a_direction
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


def test_heads_of_the_classic_family_are_refused() -> None:
    with pytest.raises(UserError, match="choose 'random'"):
        load_recipe("tiny", ["training.initialisation=heads", "model.family=classic", "model.kv_heads=4"])
