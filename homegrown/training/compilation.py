"""Whether a run is long enough for `torch.compile` to pay for itself, and compiling a model's blocks."""

from typing import TYPE_CHECKING, Literal

from homegrown.config.training import TrainingSettings
from homegrown.util import devices

if TYPE_CHECKING:  # a plan calls `compiles` without PyTorch
    from homegrown.model.transformer import Transformer

LEAST_FLOPS, ACCELERATOR_LEAST_FLOPS = 2e14, 2e16
"""Floating-point operations of a run from which `auto` compiles.

On 2 CPU cores compiled blocks took 8% less time (tiny, bf16) and 20 to 30 seconds to compile: paid back after some six
minutes, at 0.2 to 0.4 TFLOP/s. The figure for GPUs means a minute of compiling and a fifth of the time gained at
100 TFLOP/s; an H100 took 26 to 50 seconds to its first step, all included.
"""


def compiles(setting: Literal["auto", "always", "never"], device: str, flops_per_token: int, tokens: int) -> bool:
    """Return whether to compile a run that trains on `tokens`.

    It depends only on the recipe and the machine, not on a measurement, so that a run can be repeated.
    """
    if setting == "auto":
        least = LEAST_FLOPS if device == "cpu" else ACCELERATOR_LEAST_FLOPS
        return devices.compiler(device) is not None and flops_per_token * tokens >= least
    return setting == "always"


def choice(settings: TrainingSettings, device: str, flops_per_token: int, context: int) -> str:
    """Return what `training.compile` means for a run: always or never."""
    tokens = settings.max_steps * settings.batch_size * context
    return "always" if compiles(settings.compile, device, flops_per_token, tokens) else "never"


def compile_model(model: "Transformer") -> None:
    """Compile the model's blocks and its loss at their first use, in place.

    All blocks are alike, so one compilation serves any number of them; names of weights do not change.
    """
    model.compiled = True
    for block in model.model.layers:
        block.compile()
