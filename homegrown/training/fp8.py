"""Products in FP8 (`training.precision: fp8`), by torchao: e4m3 and e5m2 with one scale for each tensor and product.

The matrices of the blocks multiply in FP8, in the forward and both backward products; embedding, output projection and
attention stay in bfloat16, weights, gradients and moments in float32. So checkpoints and results are those of bfloat16.
It does not import PyTorch, so a run can check the settings before its first stage.
"""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from homegrown.config.training import TrainingSettings
from homegrown.util import devices
from homegrown.util.errors import UserError
from homegrown.util.quiet import quiet_torchao

if TYPE_CHECKING:
    from torch import nn

EMULATED = "HOMEGROWN_EMULATED_FP8"
"""Variable of the environment: with "1", any device computes the same numbers in float32, slowly, for tests."""
_MULTIPLE = 16
"""Of all sizes of a product, which the hardware requires."""


def is_emulated() -> bool:
    """Return whether products in FP8 are emulated."""
    return os.environ.get(EMULATED) == "1"


def check(settings: TrainingSettings, device: str) -> None:
    """Raise UserError if training is to be in FP8 and the device has none, or torchao is not installed."""
    if settings.precision != "fp8":
        return
    if find_spec("torchao") is None:
        raise UserError(
            "training.precision is 'fp8', which needs torchao; run pip install '.[torchao]', or set it to 'auto'."
        )
    if not is_emulated() and not devices.computes_in_fp8(device):
        name = "a CPU" if device == "cpu" else devices.describe(device)
        raise UserError(
            f"training.precision is 'fp8', but {name} has no FP8 products (NVIDIA from capability 8.9, AMD from MI300 "
            "on); set it to 'auto'."
        )


def convert(model: "nn.Module", context: int) -> None:
    """Let the trained matrices of the blocks multiply in FP8, in place; parameters and their names stay the same.

    Raises:
        UserError: no matrix is trained whose sizes FP8 supports, or the context is none.
    """
    with quiet_torchao():
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    if context % _MULTIPLE:
        raise UserError(
            f"training.precision is 'fp8', but the context of {context} is not a multiple of {_MULTIPLE}; change it, "
            "or set training.precision to 'auto'."
        )
    names = {name for name, module in model.named_modules() if _suits(name, module)}
    if not names:
        raise UserError(
            f"training.precision is 'fp8', but no trained matrix of the blocks has sizes in multiples of {_MULTIPLE} "
            "(an adapter is in bfloat16); set it to 'auto'."
        )
    config = Float8LinearConfig(emulate=is_emulated())  # scales of tensors, torchao's recipe "tensorwise"
    convert_to_float8_training(model, module_filter_fn=lambda _, name: name in names, config=config)


def _suits(name: str, module: "nn.Module") -> bool:
    from torch import nn

    if type(module) is not nn.Linear or not name.endswith("_proj"):
        return False
    return module.weight.requires_grad and not any(size % _MULTIPLE for size in module.weight.shape)
