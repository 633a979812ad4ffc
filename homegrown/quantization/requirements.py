"""Requirements of each variant: a library, sizes of matrices, a model family.

It does not import PyTorch, so a run can check them before its first stage.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from homegrown.config.export import Variant
from homegrown.config.recipe import Recipe
from homegrown.model.config import ModelConfig
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.store.artifacts import Store


@dataclass(frozen=True)
class Requirement:
    """Requirements of a variant; sizes of its matrices must be multiples of `inputs` and `outputs`."""

    library: str | None = None
    extra: str | None = None
    inputs: int = 1
    outputs: int = 1
    classic: bool = True
    """Whether it supports the classic family, for which llama.cpp has no architecture."""


_FOUR_BIT = Requirement("bitsandbytes", inputs=64, outputs=32)  # others can return garbage without an error
_GGUF = Requirement("gguf", inputs=32, classic=False)
_K_QUANT = Requirement("xllamacpp", "llama-cpp", inputs=32, classic=False)

REQUIREMENTS: dict[Variant, Requirement] = {
    "int8": Requirement("bitsandbytes"),
    "nf4": _FOUR_BIT,
    "nf4-double": _FOUR_BIT,
    "fp4": _FOUR_BIT,
    "fp4-double": _FOUR_BIT,
    "int8-dynamic": Requirement(),
    "torchao-int8": Requirement("torchao", "torchao"),
    "torchao-int4": Requirement(
        "torchao", "torchao", inputs=64, outputs=16
    ),  # the size of a group; what its CPU kernel requires
    "q8_0": _GGUF,
    "q6_k": _K_QUANT,
    "q5_k_m": _K_QUANT,
    "q4_k_m": _K_QUANT,
    "q4_0": _GGUF,
}


def check_recipe(recipe: Recipe, store: "Store") -> None:
    """Check the requirements of a recipe's variants; `store` has the base of a recipe that continues from an artifact.

    Raises:
        UserError: one is not met.
    """
    if recipe.base is not None:
        from homegrown.export.bases import base_config

        config = base_config(recipe.base, store)
    else:
        config = ModelConfig.from_settings(recipe.new_model, recipe.tokenizer.vocabulary_size, recipe.training.dropout)
    check_requirements(recipe.quantization.variants, config)


def check_requirements(variants: Iterable[Variant], config: ModelConfig) -> None:
    """Check that the variants' libraries are installed and support a model of this shape.

    Raises:
        UserError: one is not installed or does not.
    """
    for variant in variants:
        check_installed(variant, f"remove {variant} from quantization.variants")
        if config.family == "classic" and not REQUIREMENTS[variant].classic:
            raise UserError(
                f"The variant {variant} is a GGUF file, but llama.cpp has no architecture like model.family classic; "
                f"remove {variant} from quantization.variants."
            )
        if problem := misfit(variant, config):
            raise UserError(f"{problem}; change the sizes under model or remove {variant} from quantization.variants.")


def check_installed(variant: Variant, instead: str) -> None:
    """Raise UserError if the variant's library is not installed; `instead` is an alternative to installing it."""
    needs = REQUIREMENTS[variant]
    if needs.library and find_spec(needs.library) is None:
        install = f"pip install '.[{needs.extra}]'" if needs.extra else f"pip install {needs.library}"
        raise UserError(
            f"The variant {variant} needs {needs.library}, which is not installed; run {install}, or {instead}."
        )


def misfit(variant: Variant, config: ModelConfig) -> str | None:
    """Return a message on the first matrix whose sizes the variant does not support, or None."""
    needs = REQUIREMENTS[variant]
    for name, (inputs, outputs) in _matrices(config).items():
        if inputs % needs.inputs or outputs % needs.outputs:
            return (
                f"{variant} needs matrices with inputs in multiples of {needs.inputs} and outputs in multiples of "
                f"{needs.outputs}, but {name} has {inputs} and {outputs}"
            )
    return None


def _matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of each matrix of a block."""
    keys = config.kv_heads * config.head_size
    return {
        "q_proj": (config.hidden, config.heads * config.head_size),
        "k_proj": (config.hidden, keys),
        "v_proj": (config.hidden, keys),
        "o_proj": (config.heads * config.head_size, config.hidden),
        "up_proj": (config.hidden, config.feed_forward),
        "down_proj": (config.feed_forward, config.hidden),
    }
