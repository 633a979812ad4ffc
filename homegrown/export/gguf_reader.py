"""Reading a GGUF file that this project wrote: its model, and its description."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor

from homegrown.export.gguf_layout import ARCHITECTURE, FLOATS, INTEGERS, OUTPUT, tensor_names
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Description:
    """The configuration of a file's model, and the tokens that end a document and a message."""

    config: ModelConfig
    document_end: str
    message_end: str


def read_gguf(path: Path) -> Transformer:
    """Return the model of a file, dequantized to float32, in evaluation mode.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    reader = _open(path)
    config, tensors = _config(reader, path), {tensor.name: tensor for tensor in reader.tensors}
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


def describe(path: Path) -> Description:
    """Return the description of a file.

    Raises:
        UserError: as `read_gguf`.
    """
    reader = _open(path)
    return Description(_config(reader, path), _token(reader, path, "eos"), _token(reader, path, "eot"))


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name an exported GGUF file.") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged or not a GGUF file ({error}); export the model again.") from error


def _config(reader: GGUFReader, path: Path) -> ModelConfig:
    architecture = _value(reader, path, "general.architecture")
    if architecture != ARCHITECTURE:
        raise UserError(f"{path} has the architecture {architecture}; only {ARCHITECTURE} is supported.")
    sizes: dict[str, Any] = {field: _value(reader, path, key) for key, field in (INTEGERS | FLOATS).items()}
    tied = all(tensor.name != OUTPUT for tensor in reader.tensors)
    return ModelConfig(family="modern", dropout=0.0, tied=tied, **sizes)


def _token(reader: GGUFReader, path: Path, role: str) -> str:
    number = _value(reader, path, f"tokenizer.ggml.{role}_token_id")
    return str(_value(reader, path, "tokenizer.ggml.tokens", number))


def _value(reader: GGUFReader, path: Path, key: str, place: int | None = None) -> Any:
    """Return a value of the metadata, or one entry of a list."""
    field = reader.get_field(key)
    if field is None:
        raise UserError(f"{path} lacks {key}; name an exported GGUF file.")
    return field.contents() if place is None else field.contents(place)
