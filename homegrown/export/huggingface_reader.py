"""Import of a local Hugging Face folder: Llama, Mistral, Qwen2 and Qwen3, and OPT as exported by this project.

Tensors keep their names. Only JSON and safetensors files are read.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from homegrown.export import imported
from homegrown.export.imported import Unsupported, Usage, refuse, write_imported
from homegrown.export.opt import from_opt_tensors
from homegrown.model.config import ModelConfig, RopeScaling, yarn_attention_factor
from homegrown.model.layers import sinusoidal_table
from homegrown.tokenizer.chat_files import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from homegrown.tokenizer.existing import take
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_OUTPUT, _FREQUENCIES, _SHARD = "lm_head.weight", "rotary_emb.inv_freq", ".safetensors"


def files_of(folder: Path) -> list[Path]:
    """Return the files that `read_huggingface` reads.

    Raises:
        UserError: the folder lacks a model or a tokenizer.
    """
    for name in (_CONFIG, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; name the folder of a Hugging Face model with its tokenizer.")
    if (folder / _WEIGHTS).is_file():
        shards = [folder / _WEIGHTS]
    elif (folder / _INDEX).is_file():
        named = set(_json(folder / _INDEX)["weight_map"].values())
        shards = [folder / Path(name).name for name in sorted(named)]
    else:
        raise UserError(f"{folder} has no {_WEIGHTS}; save the model as safetensors.")
    formats = [folder / name for name in (CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE) if (folder / name).is_file()]
    return [folder / _CONFIG, folder / TOKENIZER_FILE, *formats, *shards]


def read_huggingface(folder: Path, out: Path) -> Outcome:
    """Write the model of `folder` to `out` as `write_imported` does.

    Raises:
        UserError: a file is missing or damaged, the architecture is not supported, or the tokenizer is not a
            byte-level BPE.
    """
    shards = [file for file in files_of(folder) if file.suffix == _SHARD]
    config, tokenizer = shape_of(folder), take(folder)
    try:
        tensors = {name: tensor for file in shards for name, tensor in load_file(file).items()}
        outcome = write_imported(config, _ours(config, tensors), tokenizer, _usage(folder, tokenizer), out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} are missing or damaged ({error}); restore them.") from error
    except Unsupported as reason:
        raise refuse(folder, reason) from None
    return replace(outcome, rows_in=len(shards))


def has_chat_format(folder: Path) -> bool:
    """Return whether the model in `folder` has a chat template, or the message tokens of ours. Raises UserError."""
    tokenizer = take(folder)
    return imported.has_chat_format(tokenizer, _usage(folder, tokenizer))


def shape_of(folder: Path) -> ModelConfig:
    """Return the shape of the model in `folder`.

    Raises:
        UserError: a file is missing, or the architecture is not supported.
    """
    files_of(folder)
    values = _json(folder / _CONFIG)
    kind = str(values.get("model_type"))
    if kind not in _READERS:
        raise UserError(
            f"The model in {folder} has the type {kind!r}, which is not supported; supported types: "
            f"{', '.join(_READERS)}."
        )
    try:
        return _READERS[kind](values)
    except KeyError as error:
        raise UserError(f"{folder / _CONFIG} lacks {error}; restore the file.") from error
    except Unsupported as reason:
        raise refuse(folder, reason) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error}); restore the file.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object; restore the file.")
    return values


def _llama_like(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of a Llama, Mistral, Qwen2 or Qwen3."""
    kind = values["model_type"]
    for unsupported, what in (
        (values.get("hidden_act", "silu") != "silu", f"the activation {values.get('hidden_act')!r}"),
        (values.get("attention_bias"), "biases in attention (attention_bias)"),
        (values.get("mlp_bias"), "biases in the feed-forward (mlp_bias)"),
        (values.get("quantization_config"), "quantized weights"),
    ):
        if unsupported:
            raise Unsupported(f"it has {what}")
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    theta, scaling = _rope(values)
    window, full = _window(values)
    return ModelConfig(
        family="modern",
        vocabulary_size=values["vocab_size"],
        hidden=hidden,
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or _DEFAULTS[kind].get("kv_heads") or heads,
        head_size=values.get("head_dim") or _DEFAULTS[kind].get("head_size") or hidden // heads,
        feed_forward=values["intermediate_size"],
        context=values["max_position_embeddings"],
        dropout=0.0,
        rope_theta=theta,
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        tied=bool(values.get("tie_word_embeddings", False)),
        qk_norm=kind == "qwen3",
        qkv_bias=kind == "qwen2",
        rope_scaling=scaling,
        sliding_window=window,
        full_attention_layers=full,
    )


_DEFAULTS: dict[str, dict[str, int]] = {
    "llama": {},
    "mistral": {"kv_heads": 8, "window": 4096},
    "qwen2": {"kv_heads": 32},
    "qwen3": {"kv_heads": 32, "head_size": 128},
}
"""Values that transformers assumes where a configuration file of the type lacks them."""


def _rope(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Return the base of the rotary frequencies and their scaling, from both forms of configuration files.

    transformers 5 writes `rope_parameters`; older versions write `rope_theta` and `rope_scaling`.
    """
    found = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    theta = float(found.get("rope_theta") or values.get("rope_theta") or 10_000.0)
    kind = found.get("rope_type") or found.get("type") or "default"
    if (found.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0) != 1.0:
        raise Unsupported("it rotates a part of each head (partial_rotary_factor)")
    if kind == "default":
        return theta, None
    original = found.get("original_max_position_embeddings") or values["max_position_embeddings"]
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=float(found["factor"]))
    if kind == "llama3":
        low, high = float(found["low_freq_factor"]), float(found["high_freq_factor"])
        return theta, RopeScaling(
            kind="llama3",
            factor=float(found["factor"]),
            original_context=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    if kind != "yarn":
        raise Unsupported(f"it has rotary positions scaled by {kind!r}, not by linear, llama3 or yarn")
    if not found.get("truncate", True):
        raise Unsupported("it has yarn positions without truncation")
    factor = float(found.get("factor") or values["max_position_embeddings"] / original)
    return theta, RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=original,
        beta_fast=float(found.get("beta_fast") or 32.0),
        beta_slow=float(found.get("beta_slow") or 1.0),
        attention_factor=_attention_factor(found, factor),
    )


def _attention_factor(found: Mapping[str, Any], factor: float) -> float:
    """Return the factor of queries and keys under yarn: a given one, or that of Peng et al. (2023, section 3.4)."""
    if (given := found.get("attention_factor")) is not None:
        return float(given)
    scale, overall = found.get("mscale"), found.get("mscale_all_dim")
    if scale and overall:
        return yarn_attention_factor(factor, scale) / yarn_attention_factor(factor, overall)
    return yarn_attention_factor(factor)


def _window(values: Mapping[str, Any]) -> tuple[int | None, tuple[int, ...]]:
    """Return the sliding window, or None, and the layers without it."""
    kind, layers = values["model_type"], range(values["num_hidden_layers"])
    window = values.get("sliding_window", _DEFAULTS[kind].get("window"))
    if kind == "llama" or not window or (kind != "mistral" and not values.get("use_sliding_window", False)):
        return None, ()
    types = values.get("layer_types")
    if kind == "mistral":
        full = []
    elif types is not None:
        full = [layer for layer in layers if types[layer] == "full_attention"]
    else:
        full = [layer for layer in layers if layer < values.get("max_window_layers", 28)]
    return (None, ()) if len(full) == len(layers) else (window, tuple(full))


def _opt(values: Mapping[str, Any]) -> ModelConfig:
    if values.get("activation_function", "relu") != "relu" or not values.get("do_layer_norm_before", True):
        raise Unsupported("it is not an OPT with ReLU and pre-norm")
    if values.get("word_embed_proj_dim", values["hidden_size"]) != values["hidden_size"]:
        raise Unsupported("its embedding is not as wide as its layers")
    return ModelConfig(
        family="classic",
        vocabulary_size=values["vocab_size"],
        hidden=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        kv_heads=values["num_attention_heads"],
        head_size=values["hidden_size"] // values["num_attention_heads"],
        feed_forward=values["ffn_dim"],
        context=values["max_position_embeddings"],
        dropout=float(values.get("dropout", 0.0)),
        tied=False,
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], ModelConfig]] = {
    **dict.fromkeys(_DEFAULTS, _llama_like),
    "opt": _opt,
}


def _ours(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a model of ours."""
    if config.family == "classic":
        table = sinusoidal_table(config.hidden, config.context)
        try:
            return from_opt_tensors(config, {name: tensor.float() for name, tensor in tensors.items()}, table)
        except (KeyError, ValueError) as error:
            raise Unsupported(f"of OPT, only this project's exports with sinusoidal positions are ({error})") from None
    left_out = {_OUTPUT} if config.tied else set()
    # Old Llama files hold the rotary frequencies too, which follow from the configuration.
    return {
        name: tensor for name, tensor in tensors.items() if name not in left_out and not name.endswith(_FREQUENCIES)
    }


def _usage(folder: Path, tokenizer: Tokenizer) -> Usage:
    """Return how the model in a folder uses its tokenizer, from whichever of the usual files there are."""
    settings, generation, config = (
        _json(folder / name) if (folder / name).is_file() else {} for name in (CONFIG_FILE, GENERATION_FILE, _CONFIG)
    )

    def token(role: str) -> int | None:
        """Return the id of the token for a role: its text is in one file, or its id in another."""
        named = settings.get(f"{role}_token")
        text = named.get("content") if isinstance(named, dict) else named
        found = tokenizer.token_to_id(text) if text else None
        for values in (generation, config):
            number = values.get(f"{role}_token_id")
            found = number if found is None and isinstance(number, int) else found
        return found

    ends = [token("eos")]
    for values in (generation, config):
        listed = values.get("eos_token_id")
        ends += listed if isinstance(listed, list) else [listed]
    stop = tuple(dict.fromkeys(end for end in ends if end is not None and end < tokenizer.get_vocab_size()))
    return Usage(_template(folder, settings), token("bos"), stop, token("pad"), _adds_bos(folder, settings))


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the chat template, from a file of its own or the tokenizer's settings."""
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found


def _adds_bos(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether encoded text starts with a special token, as settings or else tokenizer.json say."""
    if (said := settings.get("add_bos_token")) is not None:
        return bool(said)
    original = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    return bool(original.encode("a").ids[:1] != original.encode("a", add_special_tokens=False).ids[:1])
