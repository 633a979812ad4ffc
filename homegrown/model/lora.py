"""LoRA (Hu et al. 2021): low-rank updates of a frozen model, in peft's file format.

A matrix W [out, in] becomes W + (alpha / rank) B A, with A [rank, in] and B [out, rank]; B starts at 0. Tokens that
pretraining never saw can have trained rows in the embedding and the output projection too. Without these an adapter
learned what to answer but not to stop.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from homegrown.config.adaptation import Projection
from homegrown.config.finetune_recipe import FinetuneSettings
from homegrown.model import cpu_ops
from homegrown.model.config import ModelConfig
from homegrown.model.layers import compute_dtype
from homegrown.model.trained_rows import TrainedRows
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OUTSIDE = "base_model.model."
"""Prefix of peft's tensor names in a file."""

_INSIDE = "model."
"""Prefix of the embedding's name in a model, which peft omits in its configuration."""

_EMBEDDING, _OUTPUT = "model.embed_tokens", "lm_head"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_ROWS = ".token_adapter.trainable_tokens_delta"
"""Suffix of peft's trained rows; despite the name, the file holds the rows themselves."""

_GATE: Projection = "gate_proj"


class LoraLinear(nn.Module):
    """A frozen projection with an adapter: `lora_A` [rank, in], `lora_B` [out, rank]."""

    def __init__(self, layer: nn.Linear, settings: FinetuneSettings):
        """Wrap `layer`, which may be one of bitsandbytes; draw A from torch's global random state, as peft does."""
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(settings.rank, layer.in_features))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, settings.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scale, self.dropout = settings.alpha / settings.rank, settings.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the projection [..., out] of x [..., in]."""
        dropping = self.training and self.dropout > 0
        if type(self.base_layer) is nn.Linear and cpu_ops.supports(x) and not dropping:
            fused: Tensor = _Projection.apply(  # type: ignore[no-untyped-call]
                x, self.base_layer.weight, self.base_layer.bias, self.lora_A, self.lora_B, self.scale, compute_dtype(x)
            )
            return fused
        projected: Tensor = self.base_layer(x)
        update = F.linear(F.linear(F.dropout(x, self.dropout, self.training), self.lora_A), self.lora_B)
        return projected + self.scale * update


class _Projection(torch.autograd.Function):
    """`LoraLinear` without dropout in the type `dtype`, with fewer passes over memory than autograd's.

    The adapter is added by the product that makes it, and its gradients need no copy of x in another type.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows, matrix = x.to(dtype).flatten(0, -2), weight.to(dtype)
            low = rows @ a.to(dtype).T
            scaled = (b * scale).to(dtype)
            # A bias is a row, which the product adds too.
            projected = rows @ matrix.T if bias is None else torch.addmm(bias.to(dtype), rows, matrix.T)
            projected.addmm_(low, scaled.T)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return projected.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        towards = upstream[0].flatten(0, -2).to(rows.dtype)
        towards_low = towards @ (b * ctx.scale).to(rows.dtype)
        per_a = (towards_low.T @ rows).to(a.dtype)
        per_b = (towards.T @ low).to(b.dtype).mul_(ctx.scale)
        per_x = None
        if ctx.needs_input_grad[0]:  # the first block reads a frozen embedding
            per_x = towards @ weight.to(rows.dtype)
            per_x.addmm_(towards_low, a.to(rows.dtype))
            per_x = per_x.view(ctx.shape).to(ctx.dtype)
        return per_x, None, None, per_a, per_b, None, None


def check_targets(config: ModelConfig, settings: FinetuneSettings) -> None:
    """Raise UserError if `settings.targets` names a projection that the model lacks."""
    if config.family == "classic" and _GATE in settings.targets:
        raise UserError(f"finetuning.targets names {_GATE}, but a classic model has no such projection; remove it.")


def attach(model: Transformer, settings: FinetuneSettings, tokens: Sequence[int]) -> None:
    """Put an adapter on the projections `settings.targets` of all blocks, and freeze everything else.

    The rows of `tokens` in the embedding and the output projection are trained too.
    """
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if name.rpartition(".")[2] in settings.targets:
            model.set_submodule(name, LoraLinear(cast(nn.Linear, layer), settings))
    for name, layer in _with_a_vocabulary(model).items() if tokens else ():
        model.set_submodule(name, TrainedRows(cast(nn.Embedding | nn.Linear, layer), tokens))


def _with_a_vocabulary(model: Transformer) -> dict[str, nn.Module]:
    """Return the layers with a row for each token: the embedding, and the output projection if it is not tied."""
    names = [_EMBEDDING, *([] if model.config.tied else [_OUTPUT])]
    return {name: model.get_submodule(name) for name in names}


def save(model: Transformer, settings: FinetuneSettings, folder: Path) -> None:
    """Write the adapter that `attach` put on the model, with embedding and output projection if they are trained.

    `peft.PeftModel.from_pretrained` reads it for a model with modules of the same names, such as the Hugging Face
    export of a `modern` model.
    """
    tensors: dict[str, Tensor] = {
        f"{name}.weight": parameter
        for name, parameter in model.named_parameters()
        if name.endswith((".lora_A", ".lora_B"))
    }
    rows: dict[str, list[int]] = {}
    complete: list[str] = []
    for name, layer in _with_a_vocabulary(model).items():
        if isinstance(layer, TrainedRows):
            tensors[f"{name}{_ROWS}"] = layer.rows
            rows[name.removeprefix(_INSIDE)] = layer.get_buffer("tokens").tolist()
        elif layer.get_parameter("weight").requires_grad:
            tensors |= {f"{name}.{part}": parameter for part, parameter in layer.named_parameters()}
            complete.append(name.removeprefix(_INSIDE))
    if complete == [_EMBEDDING.removeprefix(_INSIDE)]:  # tied; peft separates the two
        tensors[f"{_OUTPUT}.weight"] = tensors[f"{_EMBEDDING}.weight"]
        complete.append(_OUTPUT)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(settings.targets),
        "bias": "none",
        "trainable_token_indices": rows or None,
        "modules_to_save": complete or None,
    }
    plain = {f"{_OUTSIDE}{name}": tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(plain, temporary, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


@dataclass(frozen=True)
class Update:
    """An adapter of a folder, in float32: matrices by the name of their projection, and rows by that of their layer."""

    matrices: dict[str, tuple[Tensor, Tensor]]
    """A [rank, in] and B [out, rank], which has the scale; both contiguous."""
    tokens: list[int]
    """Tokens with rows of their own."""
    rows: dict[str, Tensor]
    """The rows [tokens, hidden] of the embedding, and of the output projection if it is not tied."""


def read(folder: Path, model: Transformer) -> Update:
    """Return the adapter of a folder for a model.

    Raises:
        UserError: it is missing or damaged, belongs to another model, or trained the embedding completely.
    """
    scale, rows, tensors = _read(folder)
    matrices, own = {}, {}
    for name, tensor in tensors.items():
        if name.endswith(_DOWN):
            place = name.removeprefix(_OUTSIDE).removesuffix(_DOWN)
            up = tensors.get(f"{_OUTSIDE}{place}{_UP}", torch.empty(0, 0))
            _check_shapes(model, folder, place, (len(up), tensor.shape[1]))
            matrices[place] = tensor.float().contiguous(), (up.float() * scale).contiguous()
        elif name.endswith(_ROWS):
            place = name.removeprefix(_OUTSIDE).removesuffix(_ROWS)
            _check_shapes(model, folder, place, (model.config.vocabulary_size, tensor.shape[1]))
            own[place] = tensor.float()
        elif not name.endswith(_UP):
            raise UserError(f"The adapter in {folder} has a complete embedding; serve its merged model instead.")
    tokens = next(iter(rows.values()), [])
    if any(other != tokens for other in rows.values()) or any(len(one) != len(tokens) for one in own.values()):
        raise UserError(f"The adapter in {folder} trains different rows of two layers; serve its merged model.")
    return Update(matrices, tokens, own)


def _check_shapes(model: Transformer, folder: Path, place: str, shape: tuple[int, int]) -> None:
    try:
        fits = tuple(model.get_parameter(f"{place}.weight").shape) == shape
    except AttributeError:
        fits = False
    if not fits:
        raise _foreign(folder, place)


def _read(folder: Path) -> tuple[float, dict[str, list[int]], dict[str, Tensor]]:
    """Return the scale of an adapter, the tokens of its trained rows by layer, and its tensors."""
    try:
        values = json.loads((folder / CONFIG).read_bytes())
        scale, rows = values["lora_alpha"] / values["r"], dict(values["trainable_token_indices"] or {})
        return scale, rows, load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
        raise UserError(f"The adapter in {folder} is missing or damaged; fine-tune again or restore it.") from error


def _foreign(folder: Path, place: str) -> UserError:
    return UserError(f"The adapter in {folder} belongs to another model (matrix {place}); name that model.")


@torch.no_grad()
def merge(model: Transformer, folder: Path) -> Transformer:
    """Add the adapter of a folder to the weights of a model, in place, and return the model.

    Raises:
        UserError: the adapter is missing or damaged, or belongs to another model.
    """
    scale, rows, tensors = _read(folder)
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
                weight[rows[place.removeprefix(_INSIDE)]] = tensors[name].to(weight)
            elif not name.endswith(_UP) and not (model.config.tied and _OUTPUT in name):
                place = name.removeprefix(_OUTSIDE)
                model.get_parameter(place).copy_(tensors[name])
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise _foreign(folder, place) from error
    return model
