"""Each method compared with a matrix product and with its definition."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from homegrown.quantization.linear import METHODS, try_out
from homegrown.util.errors import UserError

TOLERANCE = {
    "int8": 0.02,
    "int8-dynamic": 0.03,
    "torchao-int8": 0.02,
    "torchao-int4": 0.13,
    "nf4": 0.13,
    "nf4-double": 0.13,
    "fp4": 0.17,
    "fp4-double": 0.17,
}


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("variant", METHODS)
@pytest.mark.parametrize("with_bias", [True, False])
@torch.inference_mode()
def test_close_to_the_float_layer(variant: str, with_bias: bool, matrix: torch.Tensor) -> None:
    method = METHODS[variant]
    bias = torch.linspace(-1, 1, 96) if with_bias else None
    inputs = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(2))
    expected = nn.functional.linear(inputs, matrix, bias)
    layer = method.layer(method.pack(matrix), bias, matrix.shape).eval()
    for _ in range(2):  # the first pass may reorder the weights
        found = layer(inputs)
        assert found.dtype == torch.float32
        assert (found - expected).norm() / expected.norm() < TOLERANCE[variant]


@pytest.mark.parametrize("variant", ["int8", "int8-dynamic", "torchao-int8"])
def test_int8_rows_have_their_own_scale(variant: str, matrix: torch.Tensor) -> None:
    matrix = matrix * torch.logspace(-2, 1, 96)[:, None]
    tensors = METHODS[variant].pack(matrix)
    assert tensors["weight"].dtype == torch.int8
    steps = tensors["scale"] / (127 if variant == "int8" else 1)
    restored = tensors["weight"] * steps.reshape(-1, 1)
    largest = matrix.abs().amax(1, keepdim=True)
    assert ((restored - matrix).abs() <= largest / 127 * 0.55 + largest * 2**-11).all()


def test_nf4_codes_equal_the_paper(matrix: torch.Tensor) -> None:
    tensors = METHODS["nf4"].pack(matrix)
    # Dettmers et al. 2023, appendix E.
    published = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    published += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert torch.allclose(tensors["code"], torch.tensor(published), atol=1e-6)
    blocks = matrix.reshape(-1, 64)
    assert torch.equal(tensors["absmax"], blocks.abs().amax(1))
    shares = blocks / tensors["absmax"][:, None]
    nearest = (shares[..., None] - tensors["code"]).abs().amin(-1)
    codes = torch.stack([tensors["weight"] >> 4, tensors["weight"] & 15], dim=1).reshape(-1, 64).long()
    assert torch.allclose((tensors["code"][codes] - shares).abs(), nearest, atol=1e-5)


def test_fp4_codes_are_a_sign_two_exponents_and_a_mantissa(matrix: torch.Tensor) -> None:
    code = METHODS["fp4"].pack(matrix)["code"]
    # Of the 12 that it would be the largest: 0, 0.0625, 8, 12, 4, 6, 2, 3 (bitsandbytes, csrc/kernels, dFP4).
    magnitudes = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
    assert torch.allclose(code, torch.cat([magnitudes, -magnitudes]), atol=1e-5)


def test_double_quantization_keeps_the_scales_in_eight_bits(matrix: torch.Tensor) -> None:
    matrix = matrix * torch.logspace(-1, 1, 96)[:, None]
    plain, double = METHODS["nf4"].pack(matrix), METHODS["nf4-double"].pack(matrix)
    assert torch.equal(plain["weight"], double["weight"])
    assert double["absmax"].dtype == torch.uint8
    assert torch.allclose(double["offset"], plain["absmax"].mean())
    assert torch.allclose(double["scales"], (plain["absmax"] - plain["absmax"].mean()).abs().amax())
    bits = sum(tensor.nbytes for name, tensor in double.items() if name != "code") * 8 / matrix.numel()
    assert bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=0.01)


@torch.inference_mode()
def test_double_quantization_computes_with_its_stored_scales(matrix: torch.Tensor) -> None:
    matrix = matrix * torch.logspace(-1, 1, 96)[:, None]
    layers = [METHODS[name].layer(METHODS[name].pack(matrix), None, matrix.shape) for name in ("nf4", "nf4-double")]
    plain, double = (layer(torch.eye(128)) for layer in layers)
    assert 0 < (plain - double).norm() / plain.norm() < 0.02


def test_torchao_int4_is_the_nearest_of_sixteen_steps(matrix: torch.Tensor) -> None:
    tensors = METHODS["torchao-int4"].pack(matrix)
    numbers = torch.stack([tensors["weight"] >> 4, tensors["weight"] & 15], dim=-1).reshape(96, 2, 64).float()
    groups = matrix.reshape(96, 2, 64)
    scale, middle = tensors["scale"].float(), tensors["middle"].float()
    assert torch.allclose(scale, (groups.amax(-1) - groups.amin(-1)) / 15, rtol=0.02)
    restored = middle[..., None] + scale[..., None] * (numbers - 8)
    assert ((restored - groups).abs() <= 0.56 * scale[..., None] + 0.02 * groups.abs()).all()


def test_torchao_int4_equals_torchao_on_a_cpu(matrix: torch.Tensor) -> None:
    from torchao.prototype.quantization.int4.int4_opaque_tensor import Int4OpaqueTensor

    theirs = Int4OpaqueTensor.from_hp(matrix.bfloat16(), [1, 64])
    method = METHODS["torchao-int4"]
    ours = method.layer(method.pack(matrix), None, matrix.shape).linear.weight
    assert torch.equal(ours.qdata, theirs.qdata)
    assert torch.equal(ours.scale_and_zero, theirs.scale_and_zero)


def test_a_processor_without_int8_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine")

    monkeypatch.setattr(METHODS["int8-dynamic"], "layer", fail, raising=False)
    with pytest.raises(UserError, match="remove int8-dynamic from"):
        try_out("int8-dynamic", "cpu")


def test_a_method_with_wrong_results_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["nf4"], "layer", lambda *_: nn.Linear(64, 64, bias=False), raising=False)
    with pytest.raises(UserError, match="gives wrong results with nf4"):
        try_out("nf4", "cpu")


@pytest.mark.slow
def test_libraries_are_silent_and_bitsandbytes_fetches_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("raise SystemExit('bitsandbytes has imported kernels')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from homegrown.quantization.linear import try_out\n"
        "for variant in ('nf4', 'int8', 'torchao-int4'): try_out(variant, 'cpu')\n"
        "assert 'kernels' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
