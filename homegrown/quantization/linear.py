"""Methods that quantize linear layers, and a test of each on this machine."""

import torch

from homegrown.config.export import Variant
from homegrown.quantization.bitsandbytes_linear import FourBit, Int8
from homegrown.quantization.dynamic_linear import Int8Dynamic
from homegrown.quantization.method import Method
from homegrown.quantization.torchao_linear import WeightOnlyInt4, WeightOnlyInt8
from homegrown.util.errors import UserError

METHODS: dict[Variant, Method] = {
    "int8": Int8(),
    "nf4": FourBit("nf4", double=False),
    "nf4-double": FourBit("nf4", double=True),
    "fp4": FourBit("fp4", double=False),
    "fp4-double": FourBit("fp4", double=True),
    "int8-dynamic": Int8Dynamic(),
    "torchao-int8": WeightOnlyInt8(),
    "torchao-int4": WeightOnlyInt4(),
}
"""The methods of the variants that are stored as safetensors."""

_SIZE = 64


@torch.inference_mode()
def try_out(variant: Variant, device: str) -> None:
    """Multiply with a small matrix on `device` with the variant's method.

    Raises:
        UserError: this machine cannot run the method, or gives wrong results.
    """
    method = METHODS[variant]
    matrix = torch.eye(_SIZE)
    try:
        tensors = {name: tensor.to(device) for name, tensor in method.pack(matrix).items()}
        product = method.layer(tensors, None, matrix.shape)(matrix.to(device)).cpu()
    except (ImportError, RuntimeError, NotImplementedError, OSError) as error:
        raise UserError(f"This machine cannot run {variant} on {device} ({error}); {_leave_out(variant)}") from error
    if not torch.allclose(product, matrix, atol=0.04):
        raise UserError(f"This machine gives wrong results with {variant} on {device}; {_leave_out(variant)}")


def _leave_out(variant: str) -> str:
    return f"remove {variant} from quantization.variants."
