"""The stage `quantize`: sizes, nearness, and loading in a fresh process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from homegrown.errors import UserError
from homegrown.formats import quantize as stage
from homegrown.formats.linear import METHODS
from homegrown.formats.quantize import quantize
from homegrown.formats.variants import disk_megabytes, load_variant, memory_megabytes, variants_of
from homegrown.model.generation import generate
from homegrown.recipe import QuantizationSettings

ALL = QuantizationSettings(variants=list(METHODS))
TOKENS = torch.arange(2 * 40).reshape(2, 40)


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_every_variant_is_small_and_near(family: str, pretrain: Callable[..., Path], tmp_path: Path) -> None:
    source = pretrain(family)
    outcome = quantize(tmp_path / "out", source, ALL)
    rows = pq.read_table(tmp_path / "out" / "variants").to_pylist()
    assert [row["variant"] for row in rows] == ["int8", "nf4", "int8-dynamic"]
    original = load_variant(source / "model")
    with torch.inference_mode():
        expected = original(TOKENS)
        for row in rows:
            folder = tmp_path / "out" / row["variant"]
            size = (folder / "model.safetensors").stat().st_size / 1e6
            assert row["megabytes"] == size == outcome.metrics[f"{row['variant']}_mb"]
            assert row["ratio"] == pytest.approx(disk_megabytes(source / "model") / size)
            model = load_variant(folder)
            error = (model(TOKENS) - expected).norm() / (expected - expected.mean(-1, keepdim=True)).norm()
            assert 0 < error < (0.2 if row["variant"] == "nf4" else 0.05)
            assert (folder / "tokenizer.json").read_text() == "{}"
    assert outcome.rows_out == 3


def test_sizes_are_those_of_the_bits(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    quantize(tmp_path, pretrain(), ALL)
    matrix = sum(layer.weight.numel() for layer in stage.matrices(load_variant(pretrain() / "model")).values())
    total = sum(parameter.numel() for parameter in load_variant(pretrain() / "model").parameters())
    others = 2 * (total - matrix) / 1e6
    header = 0.01
    assert disk_megabytes(tmp_path / "nf4") == pytest.approx(matrix * 4.5 / 8 / 1e6 + others, abs=header)
    assert disk_megabytes(tmp_path / "int8") == pytest.approx(matrix / 1e6 + others, abs=2 * header)
    loaded = matrix * 4.5 / 8 / 1e6 + 2 * others
    assert memory_megabytes(tmp_path / "nf4") == pytest.approx(loaded, abs=header)
    assert memory_megabytes(pretrain() / "model") == pytest.approx(4 * total / 1e6, rel=1e-3)


def test_only_attention_and_feed_forward_are_quantized(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    quantize(tmp_path, pretrain("classic"), QuantizationSettings(variants=["int8"]))
    kept = load_file(tmp_path / "int8" / "model.safetensors")
    floats = {name for name, tensor in kept.items() if tensor.dtype == torch.bfloat16}
    integers = {name for name, tensor in kept.items() if tensor.dtype == torch.int8}
    original = load_file(pretrain("classic") / "model" / "model.safetensors")
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    assert integers == {name for name in original if name.endswith(tuple(f"{part}.weight" for part in projections))}
    assert floats == original.keys() - integers
    assert "lm_head.weight" in floats


FRESH = """
import sys
from pathlib import Path
import torch
from homegrown.formats.variants import load_variant
torch.set_num_threads(1)
for name in sys.argv[2:]:
    model = load_variant(Path(sys.argv[1]) / name)
    with torch.inference_mode():
        torch.save(model(torch.arange(2 * 40).reshape(2, 40)), Path(sys.argv[1]) / f"{name}.pt")
"""


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_from_the_folders_alone(
    pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    quantize(tmp_path / "out", pretrain(), ALL)
    expected = {}
    for variant in METHODS:
        model = load_variant(tmp_path / "out" / variant)
        with torch.inference_mode():
            expected[variant], again = model(TOKENS), model(TOKENS)
        assert torch.equal(expected[variant], again)
    shutil.rmtree(pretrain())
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    command = [sys.executable, "-c", FRESH, tmp_path / "elsewhere", *METHODS]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    for variant, logits in expected.items():
        assert torch.equal(torch.load(tmp_path / "elsewhere" / f"{variant}.pt", weights_only=True), logits)


def test_generation_with_a_cache_runs_on_every_variant(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    quantize(tmp_path, pretrain(), ALL)
    for folder in variants_of(pretrain(), tmp_path).values():
        model = load_variant(folder)
        written = generate(model, [[0, 5, 9], [0]], max_new_tokens=6)
        assert [len(tokens) for tokens in written] == [6, 6]
        with torch.inference_mode():
            assert model(torch.tensor([[0, 5, 9]]))[0, -1].argmax() == written[0][0]


def test_variants_of_lists_the_original_and_what_was_made(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    quantize(tmp_path / "out", pretrain(), QuantizationSettings(variants=["nf4", "int8", "nf4"]))
    found = variants_of(pretrain(), tmp_path / "out")
    assert list(found) == ["original", "int8", "nf4"]
    assert found["nf4"] == tmp_path / "out" / "nf4"


def test_no_variants_is_an_empty_table(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    assert quantize(tmp_path, pretrain(), QuantizationSettings(variants=[])).rows_out == 0
    assert pq.read_table(tmp_path / "variants").num_rows == 0


def test_sizes_that_do_not_fit_are_refused_before_any_work(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    source = pretrain(hidden=192, heads=12, kv_heads=1)
    with pytest.raises(UserError, match="k_proj has 192 and 16"):
        quantize(tmp_path / "out", source, ALL)
    assert not (tmp_path / "out").exists()


def test_a_variant_that_computes_garbage_is_named(
    pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_wrongly(folder: Path) -> torch.nn.Module:
        model = load_variant(folder)
        if folder.name == "nf4":
            torch.nn.init.normal_(model.model.embed_tokens.weight)
        return model

    monkeypatch.setattr(stage, "load_variant", load_wrongly)
    with pytest.raises(RuntimeError, match="nf4 computes garbage"):
        quantize(tmp_path, pretrain(), ALL)


def test_damaged_folders_are_one_sentence(pretrain: Callable[..., Path], tmp_path: Path) -> None:
    quantize(tmp_path, pretrain(), QuantizationSettings(variants=["nf4"]))
    folder = tmp_path / "nf4"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocabulary_size": 301}))
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
        load_variant(folder)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="missing or damaged"):
        load_variant(folder)
    (folder / "quantization.json").write_text('{"variant": "int3"}')
    with pytest.raises(UserError, match="damaged"):
        load_variant(folder)
