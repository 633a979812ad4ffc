"""What each variant needs, looked at before any work: a library, sizes of the matrices, a family of models.

Knows nothing of PyTorch, so that a run can ask before its first stage.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from homegrown.config.recipe import Recipe, Variant
from homegrown.model.config import ModelConfig
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Requirement:
    """What a variant needs; `inputs` and `outputs` are what the sizes of its matrices must be multiples of."""

    library: str | None = None
    extra: str | None = None
    inputs: int = 1
    outputs: int = 1
    classic: bool = True
    """Whether it takes the classic family, which llama.cpp has no architecture for."""


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
    "torchao-int4": Requirement("torchao", "torchao", inputs=64, outputs=16),  # a group; what its CPU kernel asks
    "q8_0": _GGUF,
    "q6_k": _K_QUANT,
    "q5_k_m": _K_QUANT,
    "q4_k_m": _K_QUANT,
    "q4_0": _GGUF,
}


def check_recipe(recipe: Recipe) -> None:
    """See, before the first stage of a run, that its variants' libraries are installed and take its model's shape.

    Raises:
        UserError: one does not.
    """
    config = ModelConfig.from_settings(recipe.model, recipe.tokenizer.vocabulary_size, recipe.training.dropout)
    check_requirements(recipe.quantization.variants, config)


def check_requirements(variants: Iterable[Variant], config: ModelConfig) -> None:
    """See that the variants' libraries are installed, and that they take a model of this shape.

    Raises:
        UserError: one does not.
    """
    for variant in variants:
        check_installed(variant, f"leave {variant} out of quantization.variants")
        if config.family == "classic" and not REQUIREMENTS[variant].classic:
            raise UserError(
                f"The variant {variant} is a GGUF file, and llama.cpp has no architecture like model.family classic; "
                f"leave {variant} out of quantization.variants."
            )
        if problem := misfit(variant, config):
            raise UserError(f"{problem}; change the sizes under model or leave {variant} out of quantization.variants.")


def check_installed(variant: Variant, instead: str) -> None:
    """Raise UserError if the variant's library is not installed, with what to do `instead`."""
    needs = REQUIREMENTS[variant]
    if needs.library and find_spec(needs.library) is None:
        install = f"pip install '.[{needs.extra}]'" if needs.extra else f"pip install {needs.library}"
        raise UserError(
            f"The variant {variant} needs {needs.library}, which is not installed: {install}, or {instead}."
        )


def misfit(variant: Variant, config: ModelConfig) -> str | None:
    """Say which matrix of a model of this shape the variant does not take; None where it takes them all."""
    needs = REQUIREMENTS[variant]
    for name, (inputs, outputs) in _matrices(config).items():
        if inputs % needs.inputs or outputs % needs.outputs:
            return (
                f"{variant} takes matrices with inputs in multiples of {needs.inputs} and outputs in multiples of "
                f"{needs.outputs}, but {name} has {inputs} and {outputs}"
            )
    return None


def _matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of the matrices of a block."""
    keys = config.kv_heads * config.head_size
    return {
        "q_proj": (config.hidden, config.heads * config.head_size),
        "k_proj": (config.hidden, keys),
        "v_proj": (config.hidden, keys),
        "o_proj": (config.heads * config.head_size, config.hidden),
        "up_proj": (config.hidden, config.feed_forward),
        "down_proj": (config.feed_forward, config.hidden),
    }
