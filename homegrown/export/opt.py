"""The classic family as OPT (Zhang et al. 2022), whose layers compute the same: pre-LayerNorm, ReLU, biases.

Three things differ, and each can be written into the weights, so that the function stays what it is:

- OPT adds a learned position to the bare embedding. So the embedding is stored multiplied by sqrt(hidden), and the
  learned positions are the sinusoids, after two rows that OPT never reads.
- OPT's LayerNorm adds 1e-5 to the variance. LayerNorm of c x with c^2 epsilon is LayerNorm of x with epsilon, so all
  that writes to the residual stream is stored c times as large, c^2 = 1e-5 / epsilon.
- OPT's output projection has no bias. What a LayerNorm normalises has the sum 0, so its last one gets gains and biases
  of 1, and the sum of what it gives, hidden, carries the output's bias through one more vector in every row.
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
"""Rows of the position table that OPT passes over."""

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
    """Return the values of `config.json` that say which OPT it is."""
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
    """Return the tensors of the OPT that computes what a model of the classic family does, float32."""
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
    """Return our tensors of an OPT that `opt_tensors` wrote; `table` are the sinusoids [context, hidden].

    The last norm keeps gains and biases of 1, and the output carries what those were: the same function.

    Raises:
        KeyError: a tensor is missing.
        ValueError: it is an OPT with learned positions, or a last norm of its own.
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
    """Return the output projection [vocabulary, hidden] over a last norm with gains and biases of 1.

    With n the normalised vector, gains g, biases b and the output W and o, the logits are W (g n + b) + o. They are
    (W g + u) (n + 1) for the vector u = (W b + o - W g) / hidden, repeated in every column, because the sum of n is 0.
    """
    last = model.model.norm
    gains, biases = (parameter.double() for parameter in (last.get_parameter("weight"), last.get_parameter("bias")))
    weight, bias = model.lm_head.weight.double(), model.lm_head.bias.double()
    carried = (weight @ (biases - gains) + bias) / model.config.hidden
    return (weight * gains + carried[:, None]).float()
