"""GGUF export for llama.cpp, Ollama and LM Studio: weights, tokenizer and chat template in one file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, RopeScalingType
from safetensors import SafetensorError, safe_open

from homegrown.export.gguf_layout import CONTEXT, FLOATS, INTEGERS, ROPE_DIVISORS, architecture, reordered, tensor_names
from homegrown.export.gguf_types import (
    KINDS,
    Kind,
    fitting_type,
    kind_named,
    quantize,
    stored_dtype,
    stored_shape,
    wanted_type,
)
from homegrown.export.gguf_vocabulary import Vocabulary
from homegrown.model import weights
from homegrown.model.config import ModelConfig, RopeScaling, yarn_attention_factor
from homegrown.model.layers import frequency_divisors, rotary_frequencies
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

__all__ = ["KINDS", "write_gguf"]


def write_gguf(model_folder: Path, target: Path, kind: str) -> str | None:
    """Write the model of a folder as one GGUF file, atomically, with one tensor in memory at a time.

    `kind` is one of `KINDS`. Returns a warning about matrices of a larger type than that kind's, because their rows do
    not fill its blocks, and about a context that ends at the sliding window, or None.

    Raises:
        UserError: before anything is written: the model is `classic`, llama.cpp cannot split text as the tokenizer
            does, a library is missing, or the kind is unknown. Also if a file is missing or damaged, or a weight
            exceeds float16.
    """
    files, config = kind_named(kind), weights.load_config(model_folder / "config.json")
    if config.family == "classic":
        raise UserError(
            f"{model_folder} holds a classic model, but llama.cpp has no architecture with sinusoidal positions; "
            "export it to onnx, or train with model.family modern."
        )
    _check_scaling(config, model_folder)
    vocabulary = Vocabulary(model_folder)
    if len(vocabulary) != config.vocabulary_size:
        raise UserError(
            f"{model_folder} has a tokenizer of {len(vocabulary)} tokens but a model of {config.vocabulary_size}; "
            "restore both files together."
        )
    shapes, names = _shapes(config), tensor_names(config)
    wanted = {name: wanted_type(files, names[name], len(shape), config) for name, shape in shapes.items()}
    types = {name: fitting_type(wanted[name], shapes[name][-1]) for name in names}
    with replacing(target) as temporary:
        writer = GGUFWriter(temporary, architecture(config))
        try:
            _add_metadata(writer, config, files)
            vocabulary.write(writer)
            divisors = _divisors(config)
            if divisors is not None:
                writer.add_tensor_info(ROPE_DIVISORS, divisors.shape, divisors.dtype, divisors.nbytes)
            for name, theirs in names.items():
                shape, dtype = stored_shape(shapes[name], types[name]), stored_dtype(types[name])
                size = int(np.prod(shape)) * dtype.itemsize
                writer.add_tensor_info(theirs, shape, dtype, size, raw_dtype=types[name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            if divisors is not None:
                writer.write_tensor_data(divisors)
            _write_tensors(writer, model_folder / "model.safetensors", config, shapes, types)
        finally:
            writer.close()
    notes = [_fallbacks(kind, wanted, types)]
    if config.sliding_window is not None and config.sliding_window < config.context:
        notes.append(f"llama.cpp has no sliding window here, so the file's context is {config.sliding_window} tokens.")
    return " ".join(note for note in notes if note is not None) or None


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _add_metadata(writer: GGUFWriter, config: ModelConfig, kind: Kind) -> None:
    writer.add_name("homegrown")
    writer.add_file_type(kind.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    prefix = architecture(config)
    # llama.cpp has no sliding window in these architectures, so there the context ends where the window does.
    shortened = replace(config, context=min(config.context, config.sliding_window or config.context))
    for key, field in INTEGERS.items():
        writer.add_uint32(f"{prefix}.{key}", getattr(shortened, field))
    for key, field in FLOATS.items():
        writer.add_float32(f"{prefix}.{key}", getattr(config, field))
    if config.sliding_window is not None:
        writer.add_uint32(CONTEXT, config.context)
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([config.window(layer) is not None for layer in range(config.layers)])
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind != "llama3":
        writer.add_rope_scaling_type(RopeScalingType(scaling.kind))
        writer.add_rope_scaling_factor(scaling.factor)
        if scaling.original_context is not None:
            writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
            # llama.cpp multiplies it with yarn's usual factor.
            writer.add_rope_scaling_attn_factors(scaling.attention_factor / yarn_attention_factor(scaling.factor))


def _check_scaling(config: ModelConfig, model_folder: Path) -> None:
    """Raise UserError if llama.cpp cannot scale rotary positions as the model does."""
    scaling, usual = config.rope_scaling, RopeScaling(kind="yarn", factor=1.0)
    if scaling is None:
        return
    if scaling.kind == "llama3" and architecture(config) != "llama":
        problem = f"llama.cpp's {architecture(config)} has no llama3 scaling of rotary positions"
    elif (scaling.beta_fast, scaling.beta_slow) != (usual.beta_fast, usual.beta_slow):
        problem = "llama.cpp has yarn positions with beta_fast 32 and beta_slow 1 only"
    else:
        return
    raise UserError(f"{model_folder} cannot be exported to GGUF: {problem}; export it to hf or onnx.")


def _divisors(config: ModelConfig) -> npt.NDArray[np.float32] | None:
    """Return the divisors of rotary frequencies that a file holds as a tensor, float32 [head_size / 2], or None."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    frequencies = rotary_frequencies(config.head_size, config.rope_theta)
    return frequency_divisors(frequencies, config.rope_theta, config.rope_scaling).numpy()


def _write_tensors(
    writer: GGUFWriter,
    path: Path,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, GGMLQuantizationType],
) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            for name, to in types.items():
                tensor = file.get_tensor(name).float()
                if tuple(tensor.shape) != shapes[name]:
                    raise UserError(
                        f"{path} does not match its config.json (tensor {name}); restore both files together."
                    )
                tensor = reordered(name, tensor, config, to_gguf=True)
                writer.write_tensor_data(quantize(tensor.numpy(), to))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name the folder of a trained model.") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); train the model again or restore the file.") from error
    except OverflowError as error:
        raise UserError(f"{path} has a weight in {name} beyond float16; choose bf16.") from error


def _fallbacks(
    kind: str, wanted: Mapping[str, GGMLQuantizationType], types: Mapping[str, GGMLQuantizationType]
) -> str | None:
    """Return the warning of `write_gguf`."""
    other = sorted({f"{wanted[name].name} → {to.name}" for name, to in types.items() if to != wanted[name]})
    if not other:
        return None
    count = sum(to != wanted[name] for name, to in types.items())
    return (
        f"{count} of {len(types)} tensors have a larger type than {kind}'s, because their rows do not fill its blocks "
        f"({', '.join(other)}); make model.hidden and model.feed_forward multiples of 256."
    )
