"""A base model as training starts from it: all weights in float32, or an adapter on frozen weights in 16 or 4 bits."""

from collections.abc import Sequence
from pathlib import Path

import torch

from homegrown.config.finetune_recipe import FinetuneSettings, ReferenceSettings
from homegrown.config.training import TrainingSettings
from homegrown.model import lora, weights
from homegrown.model.config import ModelConfig
from homegrown.model.trained_rows import VOCABULARY
from homegrown.model.transformer import Transformer
from homegrown.training.precision import choose_precision
from homegrown.util.devices import resolve


def load_base(
    folder: Path,
    config: ModelConfig,
    settings: FinetuneSettings,
    training: TrainingSettings,
    *,
    device: str,
    seed: int,
    tokens: Sequence[int] = (),
    embeddings: bool = False,
) -> Transformer:
    """Return the model of `folder` with the context and dropout of `config`, on the CPU, to train as `settings` says.

    With an adapter, frozen matrices have the type of the products, so that no step converts them; everything that is
    trained, and the vectors, are in float32. The rows of `tokens`, or all `embeddings`, are trained beside the adapter,
    which is drawn by `seed`.
    """
    reference = ReferenceSettings(method=settings.method, precision=training.precision)
    model = load_frozen(folder, config, reference, device=device, embeddings=embeddings)
    if settings.method == "full":
        return model
    torch.manual_seed(seed)
    lora.attach(model, settings, tokens)
    if embeddings:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in VOCABULARY)
    return model


def load_frozen(
    folder: Path, config: ModelConfig, settings: ReferenceSettings, *, device: str, embeddings: bool = False
) -> Transformer:
    """Return the model of `folder` as `load_base` does, before it gets an adapter; it computes the same."""
    if settings.method == "full":
        return weights.load(folder, dtype=lambda *_: torch.float32, config=config)
    products = choose_precision(settings.precision, resolve(device)).dtype

    def frozen(name: str, tensor: torch.Tensor) -> torch.dtype:
        trained = embeddings and name in VOCABULARY
        packed = settings.method == "qlora" and name not in VOCABULARY  # 4 bits are made of float32
        return torch.float32 if tensor.ndim < 2 or trained or packed else products

    model = weights.load(folder, dtype=frozen, config=config)
    if settings.method == "qlora":
        _in_four_bits(model)
    return model


def flops_per_token(config: ModelConfig, settings: FinetuneSettings) -> int:
    """Return 6 operations per weight and token; 4 with an adapter, as the base needs no weight gradients."""
    return config.flops_per_token(frozen=settings.method != "full")


def _in_four_bits(model: Transformer) -> None:
    """Replace the matrices of all blocks by nf4 weights (QLoRA, Dettmers et al. 2023)."""
    from homegrown.quantization.linear import METHODS
    from homegrown.quantization.variants import matrices

    for name, layer in matrices(model).items():
        small = METHODS["nf4"].layer(METHODS["nf4"].pack(layer.weight.detach()), layer.bias, layer.weight.shape)
        # Otherwise, on processors with AVX512-BF16, an evaluation forward pass repacks the weights, and gradients
        # silently stop passing through them.
        setattr(small, "support_avx512bf16_for_cpu", False)  # noqa: B010 (name of bitsandbytes)
        model.set_submodule(name, small)
