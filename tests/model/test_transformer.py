"""Properties of both families, and the arithmetic of the classic one."""

import math

import pytest
import torch

from homegrown.config.model import ModelSettings
from homegrown.model import loss
from homegrown.model.config import ModelConfig
from homegrown.model.layers import sinusoidal_table
from homegrown.model.loss import CHUNK_TOKENS, IGNORED, linear_cross_entropy
from homegrown.model.transformer import Transformer

both = pytest.mark.parametrize("family", ["modern", "classic"])


@both
def test_attention_is_causal(make_model, tokens, family: str) -> None:
    model, changed = make_model(family), tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % model.config.vocabulary_size
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=1e-5, rtol=0)
    assert (before[:, 20:] - after[:, 20:]).abs().amax(-1).min() > 1e-3


@both
def test_the_order_of_earlier_tokens_matters(make_model, tokens, family: str) -> None:
    model, swapped = make_model(family), tokens.clone()
    swapped[:, [3, 9]] = swapped[:, [9, 3]]
    assert (tokens != swapped).any()
    with torch.no_grad():
        assert (model(tokens)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (8, 1)])
@both
def test_parameters_are_counted_by_formula(family: str, heads: int, kv_heads: int) -> None:
    kv_heads = heads if family == "classic" else kv_heads
    settings = ModelSettings(
        family=family, hidden=128, layers=3, heads=heads, kv_heads=kv_heads, feed_forward=192, context=16
    )
    config = ModelConfig.from_settings(settings, vocabulary_size=300, dropout=0.0)
    assert config.parameter_count() == sum(parameter.numel() for parameter in Transformer(config).parameters())


def test_parameters_of_gpt2_small() -> None:
    """GPT-2's 124,439,808 (Radford et al. 2019), without learned positions, plus an untied output with bias."""
    settings = ModelSettings(
        family="classic", hidden=768, layers=12, heads=12, kv_heads=12, feed_forward=3072, context=1024
    )
    count = ModelConfig.from_settings(settings, vocabulary_size=50257, dropout=0.0).parameter_count()
    assert count == 124_439_808 - 1024 * 768 + 50257 * 768 + 50257


def test_flops_follow_from_two_per_weight_and_product() -> None:
    """6 N for N matrix weights, plus scores and mixing: 2 x 2 x width x context forward, three times that with back."""
    config = ModelConfig(
        family="modern",
        vocabulary_size=100,
        hidden=64,
        layers=1,
        heads=2,
        kv_heads=1,
        head_size=32,
        feed_forward=128,
        context=10,
        dropout=0.0,
        tied=True,
    )
    matrices = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + 100 * 64
    assert config.flops_per_token() == 6 * matrices + 3 * (2 * 64 * 10 + 2 * 64 * 10)


def test_sinusoids_equal_the_paper() -> None:
    table = sinusoidal_table(hidden=64, context=20)
    for position, dimension in [(0, 0), (0, 1), (1, 0), (7, 10), (7, 11), (19, 62), (19, 63)]:
        angle = position / 10_000 ** (2 * (dimension // 2) / 64)
        expected = math.cos(angle) if dimension % 2 else math.sin(angle)
        assert table[position, dimension].item() == pytest.approx(expected, abs=1e-6)


def test_classic_adds_sinusoids_to_scaled_embeddings(make_model, tokens) -> None:
    model = make_model("classic", layers=1)
    block = model.model.layers[0]
    for projection in (block.self_attn.o_proj, block.mlp.down_proj):
        torch.nn.init.zeros_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    with torch.no_grad():
        stream = model.model.embed_tokens.weight[tokens] * 8 + sinusoidal_table(64, tokens.shape[1])
        torch.testing.assert_close(model.hidden_states(tokens), model.model.norm(stream))


def test_dropout_acts_only_while_training(make_model, tokens) -> None:
    model = make_model("modern", dropout=0.5)
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


@both
def test_initialization_is_near_uniform(make_model, tokens, family: str) -> None:
    model = make_model(family)
    model.initialize()
    nats = model.loss(tokens[:, :-1], tokens[:, 1:]).item() / tokens[:, 1:].numel()
    assert nats == pytest.approx(math.log(model.config.vocabulary_size), abs=0.1)
    assert model.model.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)


def test_a_sequence_longer_than_the_context_is_an_error(make_model) -> None:
    model = make_model("modern")
    with pytest.raises(ValueError, match="49 tokens"):
        model(torch.zeros(1, 49, dtype=torch.int64))


@pytest.mark.parametrize("ignored", [0, 3, 7])
@pytest.mark.parametrize("bias", [False, True])
def test_chunked_cross_entropy_is_cross_entropy(bias: bool, ignored: int) -> None:
    random = torch.Generator().manual_seed(3)
    rows = 2 * CHUNK_TOKENS + 77
    hidden = torch.randn(rows, 24, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(50, 24, generator=random, dtype=torch.float64).requires_grad_()
    offset = torch.randn(50, generator=random, dtype=torch.float64).requires_grad_() if bias else None
    targets = torch.randint(50, (rows,), generator=random)
    targets[torch.arange(rows) % 10 < ignored] = IGNORED
    targets[: CHUNK_TOKENS * (ignored > 0)] = IGNORED
    inputs = [tensor for tensor in (hidden, weight, offset) if tensor is not None]
    logits = torch.nn.functional.linear(hidden, weight, offset)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    found = linear_cross_entropy(hidden, weight, offset, targets)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(found * 0.5, inputs), torch.autograd.grad(expected * 0.5, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_rows_change_neither_loss_nor_gradients(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; 300 rows are padded to 320, and 320 are not."""

    def learned(vocabulary: int, rows: int) -> list[torch.Tensor]:
        monkeypatch.setattr(loss, "ROWS", rows)
        shape = ModelSettings(
            family=family, hidden=64, layers=1, heads=4, kv_heads=4, feed_forward=128, context=32, tied=False
        )
        torch.manual_seed(1)
        model = Transformer(ModelConfig.from_settings(shape, vocabulary, 0.0))
        torch.nn.init.normal_(model.output_weight)
        tokens = torch.randint(vocabulary, (40, 33), generator=torch.Generator().manual_seed(2))
        tokens[3, 5:] = IGNORED
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            nats = model.loss(tokens[:, :-1].clamp(min=0), tokens[:, 1:])
        nats.backward()
        assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
        return [nats.detach(), *(parameter.grad for parameter in model.parameters())]

    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    for padded, exact in zip(learned(300, 64), learned(300, 1), strict=True):
        torch.testing.assert_close(padded, exact, **near)
    assert all(map(torch.equal, learned(320, 64), learned(320, 1)))


def test_padding_has_no_probability_in_the_compiled_loss() -> None:
    logits, expected = torch.randn(8, 64), torch.randint(50, (8, 1))
    padded = logits.clone()
    padded[:, 50:] = -torch.inf
    nats, gradient = loss.softmax_loss(padded, expected)
    exact_nats, exact_gradient = loss.softmax_loss(logits[:, :50], expected)
    torch.testing.assert_close(nats, exact_nats)
    torch.testing.assert_close(gradient[:, :50], exact_gradient)
    assert not gradient[:, 50:].any()


def test_chunked_cross_entropy_under_autocast_is_near_float32(make_model, tokens) -> None:
    model = make_model("classic")
    exact = model.loss(tokens[:, :-1], tokens[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(tokens[:, :-1], tokens[:, 1:])
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
