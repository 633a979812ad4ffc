"""Names of tensors and metadata of a `modern` model in a GGUF file: those of llama.cpp's qwen3."""

from homegrown.model.config import ModelConfig

ARCHITECTURE = "qwen3"

TOKEN_EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

_OUTSIDE = {
    "model.embed_tokens.weight": TOKEN_EMBEDDING,
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": OUTPUT,
}

_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
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
    f"{ARCHITECTURE}.context_length": "context",
    f"{ARCHITECTURE}.embedding_length": "hidden",
    f"{ARCHITECTURE}.block_count": "layers",
    f"{ARCHITECTURE}.feed_forward_length": "feed_forward",
    f"{ARCHITECTURE}.attention.head_count": "heads",
    f"{ARCHITECTURE}.attention.head_count_kv": "kv_heads",
    f"{ARCHITECTURE}.attention.key_length": "head_size",
    f"{ARCHITECTURE}.attention.value_length": "head_size",
    f"{ARCHITECTURE}.vocab_size": "vocabulary_size",
}
"""Keys of the uint32 metadata, with the field of `ModelConfig` that each holds."""

FLOATS = {
    f"{ARCHITECTURE}.rope.freq_base": "rope_theta",
    f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon": "norm_eps",
}
"""Keys of the float32 metadata, with their fields."""


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """Return the GGUF name of every tensor of a `modern` model by our name, in the order of the file.

    Both rotate the two halves of a head, so no matrix is permuted.
    """
    names = {ours: theirs for ours, theirs in _OUTSIDE.items() if not (config.tied and theirs == OUTPUT)}
    for layer in range(config.layers):
        for ours, theirs in _IN_BLOCK.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    return names
