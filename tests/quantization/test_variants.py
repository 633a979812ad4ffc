"""Variants on disk: each loads from its folder alone in a fresh process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from homegrown.inference.generation import generate
from homegrown.quantization.linear import METHODS
from homegrown.quantization.memory import loaded_megabytes
from homegrown.quantization.requirements import REQUIREMENTS
from homegrown.quantization.variants import (
    device_of,
    disk_megabytes,
    load_variant,
    save_variant,
    variants_of,
)
from homegrown.util.errors import UserError

TOKENS = torch.arange(2 * 40).reshape(2, 40)


@pytest.fixture
def made(pretrain: Callable[..., Path], tmp_path: Path) -> Path:
    """Every variant of a model whose rows fill the blocks of K-quants."""
    source = pretrain(hidden=256, layers=1, feed_forward=256)
    for variant in REQUIREMENTS:
        save_variant(source / "model", variant, tmp_path / "quantize" / variant)
    return tmp_path / "quantize"


FRESH = """
import sys
from pathlib import Path
import torch
from homegrown.quantization.variants import load_variant
from homegrown.model.transformer import Transformer
from homegrown.model.weights import load_config
torch.set_num_threads(1)
with torch.device("meta"):
    Transformer(load_config(Path(sys.argv[1], "config.json")))
assert "torch._dynamo" not in sys.modules, "the compiler, which takes a second to import"
for name in sys.argv[1:]:
    model = load_variant(Path(name))
    with torch.inference_mode():
        torch.save(model(torch.arange(2 * 40).reshape(2, 40)), f"{name}.pt")
assert not {"prefect", "tasks", "flows", "duckdb", "homegrown.store.artifacts"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_from_the_folders_alone(
    made: Path, pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    expected = {}
    for variant in REQUIREMENTS:
        model = load_variant(made / variant)
        with torch.inference_mode():
            expected[variant], again = model(TOKENS), model(TOKENS)
        assert torch.equal(expected[variant], again)
    shutil.rmtree(tmp_path / "pretrain-modern")
    elsewhere = shutil.move(made, tmp_path / "elsewhere")
    command = [sys.executable, "-c", FRESH, *REQUIREMENTS]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, cwd=elsewhere, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for variant, logits in expected.items():
        found = torch.load(elsewhere / f"{variant}.pt", weights_only=True)
        assert torch.equal(found, logits), variant


def test_every_variant_is_near_the_original_and_holds_no_code(made: Path, tmp_path: Path) -> None:
    original = load_variant(tmp_path / "pretrain-modern" / "model")
    folders = variants_of(tmp_path / "pretrain-modern", made)
    assert list(folders) == ["original", *REQUIREMENTS]
    with torch.inference_mode():
        expected = original(TOKENS)
        spread = (expected - expected.mean(-1, keepdim=True)).norm()
        for variant in REQUIREMENTS:
            files = {file.name for file in folders[variant].iterdir()}
            weights = {"model.safetensors", "config.json"} if variant in METHODS else {"model.gguf"}
            assert files == {"quantization.json", "tokenizer.json"} | weights
            error = (load_variant(folders[variant])(TOKENS) - expected).norm() / spread
            assert 0 < error < (0.06 if "8" in variant else 0.3), variant


def test_better_kinds_of_gguf_are_larger_and_nearer(made: Path, tmp_path: Path) -> None:
    original = load_variant(tmp_path / "pretrain-modern" / "model")
    kinds = ["q8_0", "q6_k", "q5_k_m", "q4_k_m"]
    with torch.inference_mode():
        errors = [(load_variant(made / kind)(TOKENS) - original(TOKENS)).norm().item() for kind in kinds]
    assert errors == sorted(errors)
    sizes = [disk_megabytes(made / kind) for kind in kinds]
    assert sizes == sorted(sizes, reverse=True)
    original = load_variant(tmp_path / "pretrain-modern" / "model")
    assert loaded_megabytes(load_variant(made / "q4_k_m")) == pytest.approx(loaded_megabytes(original))


def test_generation_with_a_cache_runs_on_every_variant(made: Path) -> None:
    for variant in REQUIREMENTS:
        model = load_variant(made / variant)
        written = generate(model, [[0, 5, 9], [0]], max_tokens=6)
        assert [len(tokens) for tokens in written] == [6, 6]
        with torch.inference_mode():
            assert model(torch.tensor([[0, 5, 9]]))[0, -1].argmax() == written[0][0]


def test_only_attention_and_feed_forward_are_quantized(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    source = pretrain("classic") / "model"
    save_variant(source, "int8", tmp_path / "int8")
    kept = load_file(tmp_path / "int8" / "model.safetensors")
    floats = {name for name, tensor in kept.items() if tensor.dtype == torch.bfloat16}
    integers = {name for name, tensor in kept.items() if tensor.dtype == torch.int8}
    original = load_file(source / "model.safetensors")
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    assert integers == {name for name in original if name.endswith(tuple(f"{part}.weight" for part in projections))}
    assert floats == original.keys() - integers
    assert "lm_head.weight" in floats


def test_variants_of_lists_the_original_and_all_variants(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    source = pretrain()
    for variant in ("nf4", "int8"):
        save_variant(source / "model", variant, tmp_path / "out" / variant)
    assert variants_of(source, tmp_path / "out") == {
        "original": source / "model",
        "int8": tmp_path / "out" / "int8",
        "nf4": tmp_path / "out" / "nf4",
    }


def test_only_pytorchs_int8_stays_on_the_cpu(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    source = pretrain() / "model"
    for variant in ("int8-dynamic", "nf4"):
        save_variant(source, variant, tmp_path / variant)
    assert device_of(tmp_path / "int8-dynamic", "cuda") == "cpu"
    assert device_of(tmp_path / "nf4", "cuda") == device_of(source, "cuda") == "cuda"


def test_a_missing_library_is_one_message(
    pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant, library in {"int8": "bitsandbytes", "torchao-int4": "torchao"}.items():
        save_variant(pretrain() / "model", variant, tmp_path / variant)
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == library]:
                patch.setitem(sys.modules, name, None)
            with pytest.raises(UserError, match=f"{variant}, which needs {library}"):
                load_variant(tmp_path / variant)


def test_damaged_folders_are_one_message(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "nf4"
    save_variant(pretrain() / "model", "nf4", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocabulary_size": 301}))
    with pytest.raises(UserError, match=r"does not match its config\.json"):
        load_variant(folder)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="missing or damaged"):
        load_variant(folder)
    (folder / "quantization.json").write_text('{"variant": "int3"}')
    with pytest.raises(UserError, match="damaged"):
        load_variant(folder)
