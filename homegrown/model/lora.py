"""LoRA (Hu et al. 2021): low-rank updates of a frozen model, in peft's file format.

A matrix W [out, in] becomes W + (alpha / rank) B A, with A [rank, in] and B [out, rank]; B starts at 0. The message
tokens, which pretraining never saw, also get trained rows in the embedding and the output projection. Without these an
adapter learned what to answer but not to stop.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from homegrown.config.finetune_recipe import FinetuneSettings, Projection
from homegrown.model.config import ModelConfig
from homegrown.model.trained_rows import TrainedRows
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
_OUTSIDE = "base_model.model."
"""Prefix of peft's tensor names in a file."""

_INSIDE = "model."
"""Prefix of the embedding's name in a model, which peft omits in its configuration."""

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_ROWS = ".token_adapter.trainable_tokens_delta"
"""Suffix of peft's trained rows; despite the name, the file holds the rows themselves."""

_GATE: Projection = "gate_proj"


def require() -> None:
    """Raise UserError where peft is not installed."""
    if find_spec("peft") is None:
        raise UserError(
            "LoRA needs peft, which is not installed; run `pip install -c constraints.txt -e '.[finetune]'`."
        )


def check_targets(config: ModelConfig, settings: FinetuneSettings) -> None:
    """Raise UserError if `settings.targets` names a projection that the model lacks."""
    if config.family == "classic" and _GATE in settings.targets:
        raise UserError(f"finetuning.targets names {_GATE}, but a classic model has no such projection; remove it.")


def attach(model: Transformer, settings: FinetuneSettings, marks: Sequence[int], *, four_bit: bool = False) -> None:
    """Put an adapter on the projections `settings.targets` of all blocks, and freeze everything else.

    The rows of the tokens `marks` in the embedding and the output projection are trained too. A is drawn from torch's
    global random state. The projections become peft's modules. `four_bit` means that they are bitsandbytes'.
    """
    from peft import inject_adapter_in_model

    # peft reads this attribute to choose its wrapper of a bitsandbytes layer.
    setattr(model, "is_loaded_in_4bit", four_bit)  # noqa: B010 (no part of a Transformer)
    inject_adapter_in_model(_config(settings), model, adapter_name=_NAME)
    for name, layer in _with_a_vocabulary(model).items() if marks else ():
        model.set_submodule(name, TrainedRows(cast(nn.Embedding | nn.Linear, layer), marks))


def _with_a_vocabulary(model: Transformer) -> dict[str, nn.Module]:
    """Return the layers with a row for each token: the embedding, and the output projection if it is not tied."""
    names = ["model.embed_tokens", *([] if model.config.tied else ["lm_head"])]
    return {name: model.get_submodule(name) for name in names}


def _config(settings: FinetuneSettings) -> "LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # peft says int and divides
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
        bias="none",
    )


def save(model: Transformer, settings: FinetuneSettings, folder: Path) -> None:
    """Write the adapter that `attach` put on the model.

    `peft.PeftModel.from_pretrained` reads it for a model with modules of the same names, such as the Hugging Face
    export of a `modern` model.
    """
    tensors = {
        f"{_OUTSIDE}{name.replace(f'.{_NAME}.', '.')}": parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    marks = {}
    layers = {name: layer for name, layer in _with_a_vocabulary(model).items() if isinstance(layer, TrainedRows)}
    for name, layer in layers.items():
        tensors[f"{_OUTSIDE}{name}{_ROWS}"] = layer.get_parameter("rows").detach().cpu().contiguous()
        marks[name.removeprefix(_INSIDE)] = layer.get_buffer("tokens").tolist()
    values = _config(settings).to_dict()  # type: ignore[no-untyped-call]
    # As in peft's own files. Sorted, because the order of a set differs from run to run.
    values |= {"inference_mode": True, "target_modules": sorted(settings.targets)}
    values |= {"trainable_token_indices": marks or None}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True, default=str) + "\n")


@torch.no_grad()
def merge(model: Transformer, folder: Path) -> Transformer:
    """Add the adapter of a folder to the weights of a model, in place, and return the model.

    Raises:
        UserError: the adapter is missing or damaged, or belongs to another model.
    """
    try:
        values = json.loads((folder / CONFIG).read_bytes())
        scale, marks = values["lora_alpha"] / values["r"], dict(values["trainable_token_indices"] or {})
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
        raise UserError(f"The adapter in {folder} is missing or damaged; fine-tune again or restore it.") from error
    place = ""
    try:
        for name in tensors:
            if name.endswith(_DOWN):
                place = name.removeprefix(_OUTSIDE).removesuffix(_DOWN)
                weight = model.get_parameter(f"{place}.weight")
                weight.add_((scale * (tensors[f"{_OUTSIDE}{place}{_UP}"] @ tensors[name])).to(weight))
            elif name.endswith(_ROWS):
                place = name.removeprefix(_OUTSIDE).removesuffix(_ROWS)
                weight = model.get_parameter(f"{place}.weight")
                weight[marks[place.removeprefix(_INSIDE)]] = tensors[name].to(weight)
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise UserError(
            f"The adapter in {folder} belongs to another model (matrix {place}); name that model."
        ) from error
    return model
