"""The folder of an imported model: our configuration and weights, its tokenizer, its chat template, its stop tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from homegrown.export.huggingface_tokenizer import write_json, write_text
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.trained_rows import VOCABULARY, with_rows
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat_files import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from homegrown.tokenizer.existing import mark_documents
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.tokenizer.special import MESSAGE_TOKENS, token_text
from homegrown.tokenizer.template import renders_messages
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.progress import Metric, Outcome


class Unsupported(Exception):
    """A property of a model that is not supported."""


@dataclass(frozen=True)
class Usage:
    """How a model was trained to use its tokenizer: ids of special tokens, and the Jinja template of conversations.

    `stop` ends a generation; its first is the end of a text. `add_bos` means that each text starts with `bos`.
    """

    template: str | None
    bos: int | None
    stop: tuple[int, ...]
    pad: int | None
    add_bos: bool


def write_imported(
    config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, usage: Usage, out: Path
) -> Outcome:
    """Write a model as one of ours, each file atomically.

    The files are config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json, and
    chat_template.jinja if there is a template. Rows of the vocabulary without a token are dropped. Weights are stored
    in bfloat16 if that represents all of them exactly, and otherwise in float32.

    Raises:
        Unsupported: a tensor does not match the configuration.
    """
    mark_documents(tokenizer, usage.bos if usage.add_bos else None, usage.stop[0] if usage.stop else None)
    size = tokenizer.get_vocab_size()
    tensors = {name: with_rows(tensor, size) if name in VOCABULARY else tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        model = Transformer(replace(config, vocabulary_size=size))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise Unsupported(f"its tensor {name} does not match its configuration")
    dtype = torch.bfloat16 if all(map(_fits_bfloat16, tensors.values())) else torch.float32
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    weights.save(model, out)
    with replacing(out / TOKENIZER_FILE) as temporary:
        tokenizer.save(str(temporary))
    template = _write_usage(tokenizer, usage, out)
    parameters = model.config.parameter_count()
    metrics: dict[str, Metric] = {"parameters": parameters, "weights": str(dtype).removeprefix("torch.")}
    return Outcome(1, 1, "model", metrics | {"chat_template": template})


def has_chat_format(tokenizer: Tokenizer, usage: Usage) -> bool:
    """Return whether a base has a chat template, or the message tokens of ours."""
    own = {token.content for token in tokenizer.get_added_tokens_decoder().values()} >= set(MESSAGE_TOKENS)
    return own or (usage.template is not None and renders_messages(usage.template, _names(tokenizer, usage)))


def _names(tokenizer: Tokenizer, usage: Usage) -> dict[str, str]:
    """Return the special tokens by the names of a tokenizer's configuration."""
    ids = {"bos": usage.bos, "eos": usage.stop[0] if usage.stop else None, "pad": usage.pad}
    return {f"{role}_token": token_text(tokenizer, token) for role, token in ids.items() if token is not None}


def _write_usage(tokenizer: Tokenizer, usage: Usage, out: Path) -> str:
    """Write the files, and return which chat template the model has."""
    names = _names(tokenizer, usage)
    write_json(out / CONFIG_FILE, {"add_bos_token": usage.add_bos, **names})
    ids = {"bos_token_id": usage.bos, "eos_token_id": list(usage.stop), "pad_token_id": usage.pad}
    write_json(out / GENERATION_FILE, ids)
    if usage.template is not None and renders_messages(usage.template, names):
        write_text(out / TEMPLATE_FILE, usage.template)
        return "that of the model"
    return "none" if usage.template is None else "none: that of the model renders no message"


def _fits_bfloat16(tensor: Tensor) -> bool:
    """Return whether bfloat16 represents a tensor exactly."""
    return tensor.dtype == torch.bfloat16 or torch.equal(tensor.bfloat16().to(tensor.dtype), tensor)


def refuse(source: Path, reason: Unsupported) -> UserError:
    """Return the message about a model that cannot be imported."""
    return UserError(f"The model in {source} is not supported: {reason}; name another.")
