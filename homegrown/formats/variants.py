"""Variants of trained weights on disk: written once, loaded again from their own folder alone."""

import dataclasses
import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from homegrown.errors import UserError
from homegrown.files import replacing
from homegrown.formats.linear import METHODS
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.recipe import Variant

ORIGINAL = "original"

DESCRIPTION = "quantization.json"
"""The file that a variant's folder gets last."""

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"


class _Description(BaseModel):
    """What tells a quantized folder from one of plain weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Variant


def variants_of(pretrained: Path, quantized: Path) -> dict[str, Path]:
    """Return the folder of every variant by name, the original first; the arguments are the two stages' folders."""
    made: dict[str, Path] = {name: quantized / name for name in METHODS if (quantized / name / DESCRIPTION).is_file()}
    return {ORIGINAL: pretrained / "model", **made}


def matrices(model: Transformer) -> dict[str, nn.Linear]:
    """Return the layers that are quantized, by name: those of attention and feed-forward, not the output."""
    modules = model.model.layers.named_modules(prefix="model.layers")
    return {name: module for name, module in modules if isinstance(module, nn.Linear)}


def save_variant(model: Transformer, variant: Variant, folder: Path) -> None:
    """Write `model` with its matrices quantized; the model itself stays as it is.

    `model.safetensors` holds what `formats.linear` makes of each matrix as `<matrix's name>.<part>`, and all other
    tensors under their own names as bfloat16.
    """
    layers = matrices(model)
    tensors = {name: tensor.bfloat16() for name, tensor in _others(model).items()}
    for name, layer in layers.items():
        parts = METHODS[variant].pack(layer.weight.detach().float())
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    with replacing(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(model.config), indent=2) + "\n")
    with replacing(folder / _WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(_Description(variant=variant).model_dump_json() + "\n")


def load_variant(folder: Path, device: str = "cpu") -> Transformer:
    """Load the model of a folder, plain or quantized, in evaluation mode; what is not quantized computes in float32.

    Raises:
        UserError: a file is missing or damaged, or this machine cannot compute with the variant.
    """
    if not (folder / DESCRIPTION).exists():
        return weights.load(folder, device)
    method = METHODS[_description(folder).variant]
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
        raise UserError(f"{path} does not fit its {_CONFIG}; run the stage `quantize` again.")
    model.load_state_dict(others, strict=False, assign=True)
    for name, layer in matrices(model).items():
        parts = {key.rpartition(".")[2]: tensors[key] for key in tensors if key.rpartition(".")[0] == name}
        model.set_submodule(name, method.layer(parts, layer.bias, layer.weight.shape))
    model.model.positions = model.model.position_table().to(device)
    return model.eval()


def device_of(folder: Path, device: str) -> str:
    """Return where the variant of a folder computes if it can on `device`: PyTorch's dynamic int8 has no GPU code."""
    described = (folder / DESCRIPTION).exists()
    return "cpu" if described and _description(folder).variant == "int8-dynamic" else device


def disk_megabytes(folder: Path) -> float:
    """Return the size of a variant's weights on disk, in megabytes (10^6 bytes)."""
    return (folder / _WEIGHTS).stat().st_size / 1e6


def memory_megabytes(folder: Path) -> float:
    """Return the size of a variant's weights once loaded, in megabytes: bfloat16 beside quantized ones is widened."""
    widened = (folder / DESCRIPTION).exists()
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        tensors = (file.get_tensor(name) for name in file.keys())  # noqa: SIM118 (not a mapping)
        size: int = sum(tensor.nbytes * (2 if widened and tensor.dtype == torch.bfloat16 else 1) for tensor in tensors)
    return size / 1e6


def _others(model: Transformer) -> dict[str, Tensor]:
    """Return what is not quantized: all tensors but the matrices' weights."""
    quantized = {f"{name}.weight" for name in matrices(model)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in quantized}


def _description(folder: Path) -> _Description:
    try:
        return _Description.model_validate_json((folder / DESCRIPTION).read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{folder / DESCRIPTION} is damaged; run the stage `quantize` again.") from error
