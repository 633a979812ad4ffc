"""Reading a GGUF file: its model, dequantized, its tokenizer and its chat template."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor

from homegrown.export import imported
from homegrown.export.gguf_layout import (
    ARCHITECTURES,
    CONTEXT,
    FLOATS,
    INTEGERS,
    OUTPUT,
    ROPE_DIVISORS,
    TOKEN_EMBEDDING,
    reordered,
    tensor_names,
)
from homegrown.export.gguf_vocabulary import metadata, read_tokenizer, read_usage
from homegrown.export.imported import Unsupported, refuse, write_imported
from homegrown.model.config import ModelConfig, RopeScaling, yarn_attention_factor
from homegrown.model.layers import frequency_divisors, rotary_frequencies
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome


def read_gguf(path: Path) -> Transformer:
    """Return the model of a file, dequantized to float32, in evaluation mode.

    Raises:
        UserError: the file is missing or damaged, or its model is not supported.
    """
    reader = _open(path)
    try:
        config = _config(reader)
        state = dict(_tensors(reader, config))
    except Unsupported as reason:
        raise refuse(path, reason) from None
    with torch.device("meta"):
        model = Transformer(config)
    for name, expected in model.state_dict().items():
        if name not in state or state[name].shape != expected.shape:
            raise UserError(f"{path} is damaged (tensor {name}); export or download it again.")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.model.positions = model.model.position_table()
    return model.eval()


def read_gguf_model(path: Path, out: Path) -> Outcome:
    """Write the model, tokenizer and chat template of a GGUF file to `out` as `write_imported` does.

    Raises:
        UserError: the file is missing or damaged, or its model or tokenizer is not supported.
    """
    reader = _open(path)
    try:
        config = _config(reader)
        tokenizer = read_tokenizer(reader)
        return write_imported(config, dict(_tensors(reader, config)), tokenizer, read_usage(reader), out)
    except Unsupported as reason:
        raise refuse(path, reason) from None


def has_chat_format(path: Path) -> bool:
    """Return whether the model of a file has a chat template, or the message tokens of ours. Raises UserError."""
    reader = _open(path)
    try:
        return imported.has_chat_format(read_tokenizer(reader), read_usage(reader))
    except Unsupported as reason:
        raise refuse(path, reason) from None


def gguf_config(path: Path) -> ModelConfig:
    """Return the configuration of a file's model.

    Raises:
        UserError: as `read_gguf`.
    """
    reader = _open(path)
    try:
        return replace(_config(reader), vocabulary_size=read_tokenizer(reader).get_vocab_size())
    except Unsupported as reason:
        raise refuse(path, reason) from None


def context_of(path: Path) -> int:
    """Return the context of a file's model.

    Raises:
        UserError: as `read_gguf`.
    """
    reader = _open(path)
    try:
        return _config(reader).context
    except Unsupported as reason:
        raise refuse(path, reason) from None


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name a GGUF file.") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged or not a GGUF file ({error}); export or download it again.") from error


def _config(reader: GGUFReader) -> ModelConfig:
    kind = metadata(reader, "general.architecture")
    if kind not in ARCHITECTURES:
        raise Unsupported(f"its architecture is {kind}; supported are {', '.join(ARCHITECTURES)}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if metadata(reader, f"{kind}.expert_count", 0):
        raise Unsupported("it is a mixture of experts")
    if TOKEN_EMBEDDING not in tensors:
        raise Unsupported(f"it lacks the tensor {TOKEN_EMBEDDING}")
    heads, hidden = metadata(reader, f"{kind}.attention.head_count"), metadata(reader, f"{kind}.embedding_length")
    size = metadata(reader, f"{kind}.attention.key_length", hidden // heads)
    usual = {
        "attention.head_count_kv": heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
        "rope.freq_base": 10_000.0,
        "vocab_size": int(tensors[TOKEN_EMBEDDING].shape[1]),
    }
    found: dict[str, Any] = {}
    for key, field in (INTEGERS | FLOATS).items():
        value = metadata(reader, f"{kind}.{key}", usual.get(key))
        if isinstance(value, list) or found.setdefault(field, value) != value:
            raise Unsupported(f"it has an unusual value of {kind}.{key}: {value}")
    window = metadata(reader, f"{kind}.attention.sliding_window", 0) or None
    windowed = metadata(reader, f"{kind}.attention.sliding_window_pattern", [])
    full = [layer for layer, within in enumerate(windowed) if not within] if isinstance(windowed, list) else []
    found["context"] = metadata(reader, CONTEXT, found["context"])
    config = ModelConfig(
        family="modern",
        dropout=0.0,
        tied=OUTPUT not in tensors,
        qk_norm=kind == "qwen3",
        qkv_bias=kind == "qwen2",
        sliding_window=window,
        full_attention_layers=() if window is None else tuple(full),
        **found,
    )
    return replace(config, rope_scaling=_scaling(reader, kind, config))


def _scaling(reader: GGUFReader, kind: str, config: ModelConfig) -> RopeScaling | None:
    """Return the scaling of rotary positions: of the metadata, or the one whose divisors are in a tensor."""
    divisors = next((tensor for tensor in reader.tensors if tensor.name == ROPE_DIVISORS), None)
    if divisors is not None:
        return _llama3(torch.from_numpy(divisors.data.copy()).flatten(), config)
    name = metadata(reader, f"{kind}.rope.scaling.type", "none")
    old = metadata(reader, f"{kind}.rope.scale_linear", 1.0)
    factor = metadata(reader, f"{kind}.rope.scaling.factor", old)
    if name == "none" or factor == 1.0:
        return None
    if name == "linear":
        return RopeScaling(kind="linear", factor=factor)
    if name != "yarn":
        raise Unsupported(f"it has rotary positions scaled by {name!r}, not by linear, llama3 or yarn")
    original = metadata(reader, f"{kind}.rope.scaling.original_context_length", config.context)
    attention = metadata(reader, f"{kind}.rope.scaling.attn_factor", 1.0) * yarn_attention_factor(factor)
    return RopeScaling(kind="yarn", factor=factor, original_context=original, attention_factor=attention)


def _llama3(divisors: Tensor, config: ModelConfig) -> RopeScaling:
    """Return Llama 3's scaling with these divisors, float32 [head_size / 2].

    A file holds the divisors only. In all of Llama 3, frequencies stay from 4 turns within the original context on, and
    are divided by the factor up to 1 turn; divisors between, or else the highest divided frequency, tell the context.
    """
    factor = float(divisors.max())
    frequencies = rotary_frequencies(config.head_size, config.rope_theta)
    between = (divisors > 1) & (divisors < factor)
    kept = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    contexts = 2 * torch.pi * (1 + 3 * kept[between]) / frequencies[between]
    if len(divisors) == len(frequencies):
        limit = 2 * torch.pi / frequencies[divisors == factor].max()
        for original in [8192, *contexts.round().int().tolist(), int(limit)]:
            scaling = RopeScaling(kind="llama3", factor=factor, original_context=original)
            if torch.allclose(divisors, frequency_divisors(frequencies, config.rope_theta, scaling), rtol=1e-3):
                return scaling
    raise Unsupported(f"its rotary positions have divisors ({ROPE_DIVISORS}) that are not those of llama3")


def _tensors(reader: GGUFReader, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield our name and the dequantized values of every tensor: bfloat16 or float32."""
    names = {theirs: ours for ours, theirs in tensor_names(config).items()}
    for tensor in reader.tensors:
        if tensor.name == ROPE_DIVISORS:
            continue
        if tensor.name not in names:
            raise Unsupported(
                f"it has the tensor {tensor.name}, which {metadata(reader, 'general.architecture')} lacks"
            )
        try:
            values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        except NotImplementedError as error:
            raise Unsupported(f"its tensor {tensor.name} has the type {tensor.tensor_type.name}") from error
        values = values.reshape(tuple(reversed(tensor.shape.tolist())))
        yield names[tensor.name], reordered(names[tensor.name], values, config, to_gguf=False)
