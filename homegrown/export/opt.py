"""The classic family as OPT (Zhang et al. 2022), whose layers compute the same: pre-LayerNorm, ReLU, biases.

Three differences are folded into the weights, which keeps the function the same:

- OPT adds a learned position to the unscaled embedding. So the embedding is multiplied by sqrt(hidden), and the learned
  positions are the sinusoids, after two rows that OPT skips.
- OPT's LayerNorm adds 1e-5 to the variance. LayerNorm of c x with c^2 epsilon is LayerNorm of x with epsilon, so all
  tensors that write to the residual stream are multiplied by c, with c^2 = 1e-5 / epsilon.
- OPT's output projection has no bias. A normalized vector sums to 0, so with gains and biases of 1 the final norm's
  output sums to `hidden`. The output's bias becomes a vector that is added to every row of the projection.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer

_EPSILON = 1e-5
_OFFSET = 2
"""Rows at the start of the position table that OPT skips."""

_NAMES = {
    "input_layernorm": "self_attn_layer_norm",
    "self_attn.q_proj": "self_attn.q_proj",
    "self_attn.k_proj": "self_attn.k_proj",
    "self_attn.v_proj": "self_attn.v_proj",
    "self_attn.o_proj": "self_attn.out_proj",
    "post_attention_layernorm": "final_layer_norm",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
}
_WRITING = ("self_attn.o_proj", "mlp.down_proj")


def opt_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of OPT's `config.json`."""
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": config.hidden,
        "word_embed_proj_dim": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "ffn_dim": config.feed_forward,
        "max_position_embeddings": config.context,
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "dropout": config.dropout,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        "init_std": 0.02,
        "tie_word_embeddings": False,
    }


@torch.no_grad()
def opt_tensors(model: Transformer) -> dict[str, Tensor]:
    """Return the float32 tensors of the OPT that equals a classic model."""
    config, decoder = model.config, model.model
    larger = math.sqrt(_EPSILON / config.norm_eps)
    table = decoder.position_table() * larger
    tensors = {
        "model.decoder.embed_tokens.weight": decoder.embed_tokens.weight.float() * math.sqrt(config.hidden) * larger,
        "model.decoder.embed_positions.weight": torch.cat([torch.zeros(_OFFSET, config.hidden), table]),
        "model.decoder.final_layer_norm.weight": torch.ones(config.hidden),
        "model.decoder.final_layer_norm.bias": torch.ones(config.hidden),
        "lm_head.weight": _output(model),
    }
    for number, layer in enumerate(decoder.layers):
        for ours, theirs in _NAMES.items():
            for kind, tensor in layer.get_submodule(ours).named_parameters():
                written = tensor.float() * (larger if ours in _WRITING else 1.0)
                tensors[f"model.decoder.layers.{number}.{theirs}.{kind}"] = written
    return tensors


def from_opt_tensors(config: ModelConfig, tensors: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    """Return the classic model's tensors of an OPT by `opt_tensors`; `table` is the sinusoids [context, hidden].

    The final norm keeps gains and biases of 1, because the output projection already includes them.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the OPT has learned positions.
    """
    larger = math.sqrt(_EPSILON / config.norm_eps)
    if not torch.allclose(tensors["model.decoder.embed_positions.weight"][_OFFSET:], table * larger, atol=1e-2):
        raise ValueError("its positions are learned")
    found = {
        "model.embed_tokens.weight": tensors["model.decoder.embed_tokens.weight"] / (math.sqrt(config.hidden) * larger),
        "model.norm.weight": tensors["model.decoder.final_layer_norm.weight"],
        "model.norm.bias": tensors["model.decoder.final_layer_norm.bias"],
        "lm_head.weight": tensors["lm_head.weight"],
        "lm_head.bias": torch.zeros(config.vocabulary_size),
    }
    for number in range(config.layers):
        for ours, theirs in _NAMES.items():
            for kind in ("weight", "bias"):
                tensor = tensors[f"model.decoder.layers.{number}.{theirs}.{kind}"]
                found[f"model.layers.{number}.{ours}.{kind}"] = tensor / (larger if ours in _WRITING else 1.0)
    return found


def _output(model: Transformer) -> Tensor:
    """Return the output projection [vocabulary, hidden] after a final norm with gains and biases of 1.

    With n the normalized vector, gains g, biases b and the output W and o, the logits are W (g n + b) + o. They are
    (W g + u) (n + 1) for the vector u = (W b + o - W g) / hidden, repeated in every column, because the sum of n is 0.
    """
    last = model.model.norm
    gains, biases = (parameter.double() for parameter in (last.get_parameter("weight"), last.get_parameter("bias")))
    weight, bias = model.lm_head.weight.double(), model.lm_head.bias.double()
    carried = (weight @ (biases - gains) + bias) / model.config.hidden
    return (weight * gains + carried[:, None]).float()
