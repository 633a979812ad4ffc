"""Variants on a GPU compared with the CPU; skipped without a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from homegrown.inference.generation import generate
from homegrown.quantization.linear import METHODS, try_out
from homegrown.quantization.requirements import REQUIREMENTS
from homegrown.quantization.variants import device_of, load_variant, save_variant
from homegrown.util.errors import UserError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("variant", REQUIREMENTS)
def test_a_variant_on_a_gpu_equals_the_cpu(pretrain: Callable[..., Path], tmp_path: Path, variant: str) -> None:
    source, tokens = pretrain(hidden=256, layers=1, feed_forward=256), torch.arange(80).reshape(2, 40)
    folder = tmp_path / "quantize" / variant
    save_variant(source / "model", variant, folder)
    device = device_of(folder, "cuda")
    if variant in METHODS:
        try:
            try_out(variant, device)
        except UserError as error:
            pytest.skip(str(error))
    there = load_variant(folder, device)
    with torch.inference_mode():
        expected, found = load_variant(folder)(tokens), there(tokens.to(device)).cpu()
    # torchao's int4 has another layout on a GPU, and rounds activations to bfloat16 there.
    error = 0.02 if variant != "torchao-int4" else 0.1
    assert (found - expected).norm() < error * (expected - expected.mean(-1, keepdim=True)).norm()
    assert [len(written) for written in generate(there, [[0, 5, 9], [0]], max_tokens=6)] == [6, 6]
