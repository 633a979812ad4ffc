"""Each method against a plain matrix product, and against the arithmetic that defines it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from homegrown.errors import UserError
from homegrown.formats.linear import METHODS, check

TOLERANCE = {"int8": 0.02, "nf4": 0.13, "int8-dynamic": 0.03}


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


@pytest.mark.parametrize("variant", ["int8", "int8-dynamic"])
def test_int8_rows_have_their_own_scale(variant: str, matrix: torch.Tensor) -> None:
    matrix = matrix * torch.logspace(-2, 1, 96)[:, None]
    tensors = METHODS[variant].pack(matrix)
    assert tensors["weight"].dtype == torch.int8
    steps = tensors["scale"] / (127 if variant == "int8" else 1)
    restored = tensors["weight"] * steps[:, None]
    largest = matrix.abs().amax(1, keepdim=True)
    assert ((restored - matrix).abs() <= largest / 127 * 0.55 + largest * 2**-11).all()


def test_nf4_codes_are_those_of_the_paper(matrix: torch.Tensor) -> None:
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


@pytest.mark.parametrize(("inputs", "outputs"), [(96, 64), (64, 48)])
def test_nf4_refuses_sizes_that_its_kernels_do_not_take(inputs: int, outputs: int) -> None:
    layers = {"some.q_proj": nn.Linear(inputs, outputs)}
    with pytest.raises(UserError, match=rf"some\.q_proj has {inputs} and {outputs}"):
        check("nf4", layers)
    check("int8", layers)


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="bitsandbytes cannot be imported"):
        check("nf4", {})
    check("int8-dynamic", {})


def test_a_processor_without_int8_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine")

    monkeypatch.setattr(METHODS["int8-dynamic"], "layer", fail, raising=False)
    with pytest.raises(UserError, match="leave int8-dynamic out"):
        check("int8-dynamic", {})


def test_a_method_that_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["nf4"], "layer", lambda *_: nn.Linear(64, 64, bias=False), raising=False)
    with pytest.raises(UserError, match="computes wrongly with nf4"):
        check("nf4", {})


@pytest.mark.slow
def test_importing_bitsandbytes_fetches_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("raise SystemExit('bitsandbytes has imported kernels')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from homegrown.formats.linear import check\n"
        "check('nf4', {}); check('int8', {})\n"
        "assert 'kernels' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
