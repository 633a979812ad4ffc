"""Names of tensors and metadata of a `modern` model in a GGUF file: those of llama.cpp's llama, qwen2 and qwen3."""

from torch import Tensor

from homegrown.model.config import ModelConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Architectures of llama.cpp that a `modern` model can have; Mistral and SmolLM2 files have llama's."""

TOKEN_EMBEDDING, OUTPUT, ROPE_DIVISORS = "token_embd.weight", "output.weight", "rope_freqs.weight"

_OUTSIDE = {
    "model.embed_tokens.weight": TOKEN_EMBEDDING,
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": OUTPUT,
}

_QUERIES, _KEYS = "self_attn.q_proj", "self_attn.k_proj"

_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    _QUERIES: "attn_q",
    _KEYS: "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

INTEGERS = {
    "context_length": "context",
    "embedding_length": "hidden",
    "block_count": "layers",
    "feed_forward_length": "feed_forward",
    "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads",
    "attention.key_length": "head_size",
    "attention.value_length": "head_size",
    "rope.dimension_count": "head_size",
    "vocab_size": "vocabulary_size",
}
"""Keys of the uint32 metadata, after the architecture, with the field of `ModelConfig` that each holds."""

FLOATS = {"rope.freq_base": "rope_theta", "attention.layer_norm_rms_epsilon": "norm_eps"}
"""Keys of the float32 metadata, with their fields."""

CONTEXT = "homegrown.context_length"
"""Our key of the context, where llama.cpp's is shorter because it has no sliding window."""


def architecture(config: ModelConfig) -> str:
    """Return llama.cpp's architecture for a `modern` model."""
    if config.qk_norm:
        return "qwen3"
    return "qwen2" if config.qkv_bias else "llama"


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """Return the GGUF name of every tensor of a `modern` model by our name, in the order of the file."""
    names = {ours: theirs for ours, theirs in _OUTSIDE.items() if not (config.tied and theirs == OUTPUT)}
    biased = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj") if config.qkv_bias else ()
    left_out = () if config.qk_norm else ("self_attn.q_norm", "self_attn.k_norm")
    for layer in range(config.layers):
        for ours, theirs in _IN_BLOCK.items():
            if ours not in left_out:
                names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
            if ours in biased:
                names[f"model.layers.{layer}.{ours}.bias"] = f"blk.{layer}.{theirs}.bias"
    return names


def reordered(name: str, tensor: Tensor, config: ModelConfig, *, to_gguf: bool) -> Tensor:
    """Return a tensor with the rows of a GGUF file, or back.

    llama.cpp's llama rotates dimensions 2 i and 2 i + 1 of a head together, where ours rotates i and i + head_size / 2;
    its qwen2 and qwen3 rotate as ours. So the rows of the projections to queries and keys differ in llama files.
    """
    if architecture(config) != "llama" or not (_QUERIES in name or _KEYS in name):
        return tensor
    pairs = (2, config.head_size // 2) if to_gguf else (config.head_size // 2, 2)
    return tensor.view(-1, *pairs, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
