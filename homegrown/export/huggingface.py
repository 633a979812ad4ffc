"""Hugging Face export for transformers, vLLM and MLX, without custom code.

The modern family becomes Qwen3, Qwen2, Mistral or Llama, whichever computes the same; tensors keep their names. The
classic family becomes OPT (`homegrown.export.opt`).
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from homegrown.export.huggingface_tokenizer import boundaries, write_json, write_text, write_tokenizer
from homegrown.export.opt import opt_config, opt_tensors
from homegrown.model import weights
from homegrown.model.config import ModelConfig, RopeScaling, yarn_attention_factor
from homegrown.tokenizer.chat import Chat, load_chat
from homegrown.util.files import replacing
from homegrown.util.progress import Progress, silent

SHARD_BYTES = 5_000_000_000
"""Maximum bytes of one weight file, as is usual on hubs; larger models are sharded with an index."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_INDEX = "model.safetensors.index.json"


def write_huggingface(
    model_folder: Path, out: Path, dtype: str, card: str | None = None, *, progress: Progress = silent
) -> None:
    """Write the model of `model_folder` to `out`, each file atomically.

    The files are `config.json`, `generation_config.json`, `model.safetensors` (above `SHARD_BYTES` shards with an
    index), `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`, and `README.md`
    if there is a card.

    Args:
        model_folder: The folder `model` of a pretrained artifact.
        out: Folder to write to.
        dtype: Type of the weights: float32, bfloat16 or float16.
        card: Markdown of the model card.
        progress: Receives the number of weight files written.

    Raises:
        UserError: the weights or the tokenizer are missing or damaged.
    """
    chat = load_chat(model_folder)
    model = weights.load(model_folder)
    tensors = opt_tensors(model) if model.config.family == "classic" else model.state_dict()
    _write_weights(tensors, out, DTYPES[dtype], progress)
    write_json(out / "config.json", model_config(model.config, chat) | {"dtype": dtype, "torch_dtype": dtype})
    write_tokenizer(model_folder, out, model.config.context)
    if card is not None:
        write_text(out / "README.md", card)


def model_config(config: ModelConfig, chat: Chat) -> dict[str, Any]:
    """Return the values of `config.json`, without the type of the weights."""
    shape = opt_config(config) if config.family == "classic" else _modern_config(config)
    return {**shape, "vocab_size": config.vocabulary_size, "use_cache": True, **boundaries(chat)}


def _modern_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of Qwen3's file, of which those of Qwen2, Mistral and Llama are a subset."""
    kind = modern_type(config)
    windows = [config.window(layer) for layer in range(config.layers)]
    types = ["full_attention" if window is None else "sliding_attention" for window in windows]
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.feed_forward,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        # transformers 5 reads rope_parameters; transformers 4 and MLX read the others and otherwise assume a default.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else _scaling(config.rope_scaling),
        "rope_parameters": {
            "rope_theta": config.rope_theta,
            **({"rope_type": "default"} if config.rope_scaling is None else _scaling(config.rope_scaling)),
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "max_window_layers": config.layers if config.sliding_window is None else len(config.full_attention_layers),
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tied,
        **({"layer_types": types} if kind.startswith("qwen") else {}),  # with them, Mistral would be a Ministral
    }


def modern_type(config: ModelConfig) -> str:
    """Return the `model_type` of a model of the modern family."""
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias:
        return "qwen2"
    return "llama" if config.sliding_window is None else "mistral"


def _scaling(scaling: RopeScaling) -> dict[str, Any]:
    """Return the values of `rope_scaling`."""
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return values
    values["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        return values | {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    # Some runtimes do not know it, so it is left out where they would compute the same.
    if scaling.attention_factor != yarn_attention_factor(scaling.factor):
        values["attention_factor"] = scaling.attention_factor
    return values


def _write_weights(tensors: dict[str, Tensor], out: Path, dtype: torch.dtype, progress: Progress) -> None:
    sizes = {name: torch.empty_like(tensor, dtype=dtype, device="meta") for name, tensor in tensors.items()}
    plan = split_torch_state_dict_into_shards(sizes, max_shard_size=SHARD_BYTES)
    for done, (file, names) in enumerate(plan.filename_to_tensors.items(), start=1):
        part = {name: tensors[name].detach().to(dtype).contiguous() for name in names}
        with replacing(out / file) as temporary:
            save_file(part, temporary, metadata={"format": "pt"})
        progress(done, len(plan.filename_to_tensors))
    if plan.is_sharded:
        write_json(out / _INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
