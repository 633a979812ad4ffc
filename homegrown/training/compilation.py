"""Whether a run is long enough for `torch.compile` to pay for itself, and compiling a model's blocks."""

import shutil
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a plan asks `compiles` without PyTorch
    from homegrown.model.transformer import Transformer

LEAST_FLOPS: dict[str, float] = {"cpu": 2e14, "cuda": 2e16}
"""Floating-point operations of a whole run from which `auto` compiles.

On 2 CPU cores compiled blocks took 8% less time (tiny, bf16) and 20 to 30 seconds to compile: paid back after some six
minutes, at 0.2 to 0.4 TFLOP/s. The figure for GPUs stands for a minute of compiling and a fifth of the time gained at
100 TFLOP/s; an H100 took 26 to 50 seconds to its first step, all included.
"""

_COMPILERS = {"cpu": ("g++", "clang++", "cl"), "cuda": ("gcc", "clang")}
"""Which the compiled code needs: its own on a CPU; on a GPU Triton's, for what starts its kernels."""


def compiles(
    setting: Literal["auto", "always", "never"], device: Literal["cpu", "cuda"], flops_per_token: int, tokens: int
) -> bool:
    """Return whether to compile a run that trains on `tokens`.

    It depends on the recipe and the machine alone, not on a measurement, so that a run can be repeated.
    """
    if setting == "auto":
        possible = any(map(shutil.which, _COMPILERS[device]))
        return possible and flops_per_token * tokens >= LEAST_FLOPS[device]
    return setting == "always"


def compile_model(model: "Transformer") -> None:
    """Have the model's blocks and its loss compiled at their first use, in place.

    All blocks are alike, so one compilation serves them all, however many there are; names of weights stay as they are.
    """
    model.compiled = True
    for block in model.model.layers:
        block.compile()
