"""The modern family compared with `transformers` on the same weights."""

from typing import Any

import pytest
import torch

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer


def qwen3(config: ModelConfig, model: Transformer) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    oracle = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_size,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
            attention_bias=False,
        )
    )
    missing, unexpected = oracle.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if config.tied else [], [])
    return oracle.eval()


@pytest.mark.parametrize(
    ("kv_heads", "theta", "tied"), [(4, 10_000.0, True), (2, 10_000.0, False), (1, 500_000.0, True)]
)
def test_logits_equal_qwen3(make_model, tokens, kv_heads: int, theta: float, tied: bool) -> None:
    model = make_model("modern", kv_heads=kv_heads, rope_theta=theta, tied=tied)
    with torch.no_grad():
        expected = qwen3(model.config, model)(tokens).logits
        torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)


def test_gradients_equal_qwen3(make_model, tokens) -> None:
    model = make_model("modern")
    oracle = qwen3(model.config, model)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    logits = oracle(inputs).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    model.loss(inputs, targets).backward()
    expected = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-3, rtol=1e-3, msg=name)
