"""A model on disk: `config.json`, the fields of `ModelConfig`, and `model.safetensors`."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from homegrown.util.files import replacing


def save(model: Transformer, folder: Path) -> None:
    """Write the model's configuration and weights to `folder`, each file atomically."""
    with replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(model.config), indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def load(
    folder: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Callable[[str, torch.Tensor], torch.dtype] | None = None,
    config: ModelConfig | None = None,
) -> Transformer:
    """Return the model of `folder` in evaluation mode, in `dtype` or by default as saved.

    `dtype` may choose the type of each tensor by its name; the weights are then copies, to train. `config` replaces
    that of the folder, where another context or dropout is wanted.

    Raises UserError if a file is missing, damaged, or from another program.
    """
    config = config or load_config(folder / "config.json")
    with torch.device("meta"):
        model = Transformer(config)
    tensors = _load_tensors(folder / "model.safetensors", torch.device(device), dtype)
    _check(folder / "model.safetensors", {name: tensor.shape for name, tensor in model.state_dict().items()}, tensors)
    model.load_state_dict(tensors, assign=True)
    model.model.positions = model.model.position_table().to(device)
    return model.eval()


def in_precision(model: Transformer, precision: str) -> Transformer:
    """Return the model with weights in `float32` or `bf16`; positions stay float32, quantized weights unchanged."""
    positions = model.model.positions
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    model.model.positions = positions
    return model


def load_config(path: Path) -> ModelConfig:
    """Return the configuration in `path`; raises UserError if it is missing, damaged, or from another program."""
    try:
        fields = json.loads(path.read_bytes())
        known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(ModelConfig)}
        # Older files lack newer fields, which have defaults.
        required = {name for name, needed in known.items() if needed}
        if not isinstance(fields, dict) or not required <= fields.keys() <= known.keys():
            raise UserError(f"{path} is not the configuration of a Homegrown model; name the folder of one.")
        config = TypeAdapter(ModelConfig).validate_python(fields)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name the folder of a trained model.") from error
    except (ValueError, ValidationError) as error:
        raise UserError(f"{path} is damaged; train the model again or restore the file.") from error
    sizes = [value for value in dataclasses.astuple(config) if isinstance(value, int) and not isinstance(value, bool)]
    if min(sizes) < 1 or config.heads % config.kv_heads:
        raise UserError(f"{path} has invalid sizes; train the model again or restore the file.")
    return config


def _load_tensors(
    path: Path, device: torch.device, dtype: torch.dtype | Callable[[str, torch.Tensor], torch.dtype] | None
) -> dict[str, torch.Tensor]:
    tensors = {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_tensor(name)
                # Without a copy a tensor is the mapped file, all of which stays in memory then.
                tensors[name] = tensor.to(dtype(name, tensor), copy=True) if callable(dtype) else tensor.to(dtype)
        return tensors
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name the folder of a trained model.") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged; train the model again or restore the file.") from error


def _check(path: Path, expected: dict[str, torch.Size], found: dict[str, torch.Tensor]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected or found[name].shape != expected[name]:
            raise UserError(f"{path} does not match its config.json (tensor {name}); restore both files together.")
