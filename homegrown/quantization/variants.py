"""Variants of trained weights on disk, each loadable from its own folder."""

import dataclasses
import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from homegrown.config.export import Variant
from homegrown.export.gguf import write_gguf
from homegrown.export.gguf_reader import read_gguf
from homegrown.export.gguf_types import kind_named
from homegrown.export.gguf_vocabulary import Vocabulary
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.quantization.linear import METHODS, try_out
from homegrown.quantization.requirements import REQUIREMENTS
from homegrown.tokenizer.loading import copy_tokenizer
from homegrown.util import devices
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

ORIGINAL = "original"

DESCRIPTION = "quantization.json"
"""The file that is written to a variant's folder last."""

GGUF_WEIGHTS = "model.gguf"
_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"


class _Description(BaseModel):
    """The file that marks a folder as quantized."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Variant


def variants_of(pretrained: Path, quantized: Path) -> dict[str, Path]:
    """Return the folder of every variant by name, the original first; arguments are the two stages' folders."""
    made: dict[str, Path] = {
        name: quantized / name for name in REQUIREMENTS if (quantized / name / DESCRIPTION).is_file()
    }
    return {ORIGINAL: pretrained / "model", **made}


def matrices(model: Transformer) -> dict[str, nn.Linear]:
    """Return the layers that `METHODS` quantize, by name: those of attention and feed-forward.

    A GGUF file quantizes the embedding and the output projection too.
    """
    modules = model.model.layers.named_modules(prefix="model.layers")
    return {name: module for name, module in modules if isinstance(module, nn.Linear)}


def check_variant(variant: Variant, source: Path, device: str) -> None:
    """Check that this machine can make the variant of the weights in the folder `source`, and run it.

    Raises:
        UserError: it cannot.
    """
    if variant in METHODS:
        try_out(variant, device_for(variant, device))
    else:
        kind_named(variant)
        Vocabulary(source)


def save_variant(source: Path, variant: Variant, folder: Path) -> None:
    """Write the variant of the weights in the folder `source`, with their tokenizer and system message.

    A GGUF file is `model.gguf`. Otherwise `model.safetensors` holds the packed tensors of each matrix as
    `<matrix's name>.<part>`, and all other tensors under their own names as bfloat16.
    """
    if variant in METHODS:
        _save_matrices(weights.load(source, dtype=torch.float32), variant, folder)
    else:
        write_gguf(source, folder / GGUF_WEIGHTS, variant)
    copy_tokenizer(source, folder)
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(_Description(variant=variant).model_dump_json() + "\n")


def load_variant(folder: Path, device: str = "cpu") -> Transformer:
    """Load the model of a folder, plain or quantized, in evaluation mode; tensors that are not quantized are float32.

    A GGUF file is dequantized to float32, so it is small only in llama.cpp.

    Raises:
        UserError: a file is missing or damaged, or this machine cannot run the variant.
    """
    variant = _variant(folder)
    if variant is None:
        return weights.load(folder, device)
    if variant in METHODS:
        return _load_matrices(folder, variant, device)
    return read_gguf(folder / GGUF_WEIGHTS).to(device)


def device_of(folder: Path, device: str) -> str:
    """Return the device that runs the variant of a folder: `device` if it can."""
    return device_for(_variant(folder), device)


def device_for(variant: Variant | None, device: str) -> str:
    """Return the device that runs a variant: `device`, or the CPU if it has no kernels; dynamic int8 has none."""
    lacks_kernels = variant is not None and REQUIREMENTS[variant].library == "bitsandbytes"
    if variant == "int8-dynamic" or (lacks_kernels and not devices.traits(device).bitsandbytes):
        return "cpu"
    return device


def disk_megabytes(folder: Path) -> float:
    """Return the size of a variant's weights on disk, in megabytes (10^6 bytes)."""
    variant = _variant(folder)
    return (folder / (_WEIGHTS if variant is None or variant in METHODS else GGUF_WEIGHTS)).stat().st_size / 1e6


def _save_matrices(model: Transformer, variant: Variant, folder: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in _others(model).items()}
    for name, layer in matrices(model).items():
        parts = METHODS[variant].pack(layer.weight.detach())
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    with replacing(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(model.config), indent=2) + "\n")
    with replacing(folder / _WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})


def _load_matrices(folder: Path, variant: Variant, device: str) -> Transformer:
    path = folder / _WEIGHTS
    with torch.device("meta"):
        model = Transformer(weights.load_config(folder / _CONFIG))
    expected = {name: tensor.shape for name, tensor in _others(model).items()}
    try:
        tensors = load_file(path, device=device)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged; run the stage `quantize` again.") from error
    others = {name: tensors.pop(name).float() for name in expected if name in tensors}
    if {name: tensor.shape for name, tensor in others.items()} != expected:
        raise UserError(f"{path} does not match its {_CONFIG}; run the stage `quantize` again.")
    model.load_state_dict(others, strict=False, assign=True)
    for name, layer in matrices(model).items():
        parts = {key.rpartition(".")[2]: tensors[key] for key in tensors if key.rpartition(".")[0] == name}
        model.set_submodule(name, _layer(variant, parts, layer))
    model.model.positions = model.model.position_table().to(device)
    return model.eval()


def _layer(variant: Variant, parts: dict[str, Tensor], layer: nn.Linear) -> nn.Module:
    try:
        return METHODS[variant].layer(parts, layer.bias, layer.weight.shape)
    except ImportError as error:
        library = REQUIREMENTS[variant].library
        raise UserError(f"These weights are {variant}, which needs {library} ({error}); install it.") from error
    except KeyError as error:
        raise UserError(
            f"A matrix of these {variant} weights lacks {error}; run the stage `quantize` again."
        ) from error


def _others(model: Transformer) -> dict[str, Tensor]:
    """Return the tensors that are not quantized: all but the matrices' weights."""
    quantized = {f"{name}.weight" for name in matrices(model)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in quantized}


def _variant(folder: Path) -> Variant | None:
    """Return the variant in a folder, or None for plain weights."""
    if not (folder / DESCRIPTION).exists():
        return None
    try:
        return _Description.model_validate_json((folder / DESCRIPTION).read_bytes()).variant
    except (OSError, ValidationError) as error:
        raise UserError(f"{folder / DESCRIPTION} is damaged; run the stage `quantize` again.") from error
