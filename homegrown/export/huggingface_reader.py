"""Import of a local Hugging Face folder: Qwen3's and Llama's layouts, and OPT as exported by this project.

Tensors keep their names and become float32. Only JSON and safetensors files are read.
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

from homegrown.export.opt import from_opt_tensors
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.existing import take
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.progress import Outcome

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


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
    return [folder / _CONFIG, folder / TOKENIZER_FILE, *shards]


def read_huggingface(folder: Path, out: Path) -> Outcome:
    """Write the model of `folder` to `out`: config.json, model.safetensors, tokenizer.json.

    Special tokens that its tokenizer lacks take unused rows of the embedding; the remaining unused rows are dropped.

    Raises:
        UserError: a file is missing or damaged, the architecture is not supported, the tokenizer is not a byte-level
            BPE, or it lacks a special token and the embedding has no unused row.
    """
    _, _, *shards = files_of(folder)
    config, tokenizer = shape_of(folder), take(folder)
    try:
        tensors = {name: tensor.float() for file in shards for name, tensor in load_file(file).items()}
        model = _model(config, tensors)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} are missing or damaged ({error}); restore them.") from error
    except _Foreign as reason:
        raise UserError(f"The model in {folder} is not supported: {reason}; name another.") from None
    weights.save(_resized(model, tokenizer, folder), out)
    with replacing(out / TOKENIZER_FILE) as temporary:
        tokenizer.save(str(temporary))
    return Outcome(len(shards), 1, "model", {"parameters": model.config.parameter_count()})


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
    except _Foreign as reason:
        raise UserError(f"The model in {folder} is not supported: {reason}; name another.") from None


class _Foreign(Exception):
    """A property of a model that is not supported."""


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error}); restore the file.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object; restore the file.")
    return values


def _llama_like(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of a Qwen3 or a Llama, which differ only in QK-norm."""
    rope = values.get("rope_parameters") or {}
    scaling = values.get("rope_scaling") or {}
    kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    for foreign, what in (
        (values.get("hidden_act", "silu") != "silu", f"the activation {values.get('hidden_act')!r}"),
        (values.get("attention_bias"), "biases in attention"),
        (values.get("mlp_bias"), "biases in the feed-forward"),
        (values.get("use_sliding_window"), "a sliding window"),
        (kind != "default", f"rotary positions scaled by {kind!r}"),
        (values.get("quantization_config"), "quantized weights"),
    ):
        if foreign:
            raise _Foreign(f"it has {what}")
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    return ModelConfig(
        family="modern",
        vocabulary_size=values["vocab_size"],
        hidden=hidden,
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_size=values.get("head_dim") or hidden // heads,
        feed_forward=values["intermediate_size"],
        context=values["max_position_embeddings"],
        dropout=0.0,
        rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        tied=bool(values.get("tie_word_embeddings", False)),
        qk_norm=values["model_type"] == "qwen3",
    )


def _opt(values: Mapping[str, Any]) -> ModelConfig:
    if values.get("activation_function", "relu") != "relu" or not values.get("do_layer_norm_before", True):
        raise _Foreign("it is not an OPT with ReLU and pre-norm")
    if values.get("word_embed_proj_dim", values["hidden_size"]) != values["hidden_size"]:
        raise _Foreign("its embedding is not as wide as its layers")
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
    "qwen3": _llama_like,
    "llama": _llama_like,
    "opt": _opt,
}


def _model(config: ModelConfig, tensors: dict[str, Tensor]) -> Transformer:
    """Return a model with these weights."""
    model = Transformer(config)
    if config.family == "classic":
        try:
            tensors = from_opt_tensors(config, tensors, model.model.position_table())
        except (KeyError, ValueError) as error:
            raise _Foreign(f"of OPT, only this project's exports with sinusoidal positions are ({error})") from None
    elif config.tied:
        tensors.pop(_OUTPUT, None)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise _Foreign(f"its tensor {name} does not match its configuration")
    model.load_state_dict(tensors)
    return model


def _resized(model: Transformer, tokenizer: Tokenizer, folder: Path) -> Transformer:
    """Return the model with exactly one row of the embedding and the output for each token."""
    size, config = tokenizer.get_vocab_size(), model.config
    if size > config.vocabulary_size:
        missing = [token.content for token in tokenizer.get_added_tokens_decoder().values()][
            config.vocabulary_size - size :
        ]
        raise UserError(
            f"The tokenizer of {folder} lacks {', '.join(missing)}, which conversations need, and the model's "
            "embedding has no unused rows; name a model with a ChatML template."
        )
    if size == config.vocabulary_size:
        return model
    smaller = Transformer(replace(config, vocabulary_size=size))
    smaller.load_state_dict(
        {
            name: tensor[:size] if name == _EMBEDDING or name.startswith("lm_head.") else tensor
            for name, tensor in model.state_dict().items()
        }
    )
    return smaller
