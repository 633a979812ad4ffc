"""Reading back a GGUF file that was written here: the model as llama.cpp sees it, in float32."""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor

from homegrown.errors import UserError
from homegrown.formats.gguf_layout import ARCHITECTURE, FLOATS, INTEGERS, OUTPUT, tensor_names
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer


def read_gguf(path: Path) -> Transformer:
    """Return the model of a file of any of our kinds, its tensors dequantized to float32, in evaluation mode.

    Raises:
        UserError: the file is missing or damaged, or is of another architecture.
    """
    try:
        reader = GGUFReader(path)
        config = _config(reader, path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name a GGUF file that was exported here.") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged or no GGUF file ({error}); export the model again.") from error
    with torch.device("meta"):
        model = Transformer(config)
    names, state = tensor_names(config), dict[str, Tensor]()
    for name, expected in model.state_dict().items():
        tensor = tensors.get(names[name])
        if tensor is None or tuple(reversed(tensor.shape.tolist())) != tuple(expected.shape):
            raise UserError(f"{path} is damaged (tensor {names[name]}); export the model again.")
        state[name] = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).reshape(expected.shape)
    model.load_state_dict(state, assign=True)
    model.model.positions = model.model.position_table()
    return model.eval()


def _config(reader: GGUFReader, path: Path) -> ModelConfig:
    """Return the configuration that the metadata hold; raises KeyError where one is missing."""
    architecture = _value(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise UserError(f"{path} is of the architecture {architecture}; only {ARCHITECTURE}, what we export, is read.")
    sizes: dict[str, Any] = {field: _value(reader, key) for key, field in (INTEGERS | FLOATS).items()}
    tied = all(tensor.name != OUTPUT for tensor in reader.tensors)
    return ModelConfig(family="modern", dropout=0.0, tied=tied, **sizes)


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise KeyError(key)
    return field.contents()
