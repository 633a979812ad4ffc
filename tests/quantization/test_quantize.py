"""The stage `quantize`: its measurements and its errors."""

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import pre_tokenizers

from homegrown.config.export import QuantizationSettings
from homegrown.data.loader import TokenSplit
from homegrown.quantization import quantize as stage
from homegrown.quantization.linear import METHODS
from homegrown.quantization.memory import loaded_megabytes
from homegrown.quantization.quantize import quantize
from homegrown.quantization.variants import disk_megabytes, load_variant, matrices
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome


def run(out: Path, pretrained: Path, packed: Path, *variants: str) -> Outcome:
    settings = QuantizationSettings.model_validate({"variants": variants, "validation_tokens": 192})
    return quantize(out, pretrained, packed, settings, device="cpu")


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_every_variant_is_compared_with_the_original(
    family: str, pretrain: Callable[..., Path], packed: Path, tmp_path: Path
) -> None:
    source = pretrain(family)
    variants = [*METHODS, *(["q8_0"] if family == "modern" else [])]
    outcome = run(tmp_path / "out", source, packed, *variants)
    original, *rows = pq.read_table(tmp_path / "out" / "variants").to_pylist()
    assert (original["variant"], original["ratio"], original["loss"]) == ("original", 1, 0)
    assert [row["variant"] for row in rows] == variants
    assert outcome.rows_out == len(variants)
    for row in rows:
        folder = tmp_path / "out" / row["variant"]
        size = max(file.stat().st_size for file in folder.iterdir()) / 1e6
        assert row["disk_megabytes"] == size == outcome.metrics[f"{row['variant']}_mb"]
        assert row["ratio"] == pytest.approx(original["disk_megabytes"] / size)
        model = load_variant(folder)
        with torch.inference_mode():
            model(
                torch.zeros(1, 40, dtype=torch.int64)
            )  # with AVX512-BF16, bitsandbytes casts scales in its first pass
        assert row["memory_megabytes"] == pytest.approx(loaded_megabytes(model))
        assert row["loss"] == pytest.approx(row["bits_per_byte"] / original["bits_per_byte"] - 1)
        assert row["tokens_per_second"] > 0
        assert 0 < row["relative_logit_error"] < (0.06 if "8" in row["variant"] else 0.25)
        assert abs(row["loss"]) < (0.003 if "8" in row["variant"] else 0.03)


def test_bits_per_byte_are_those_of_the_probabilities(
    pretrain: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    run(tmp_path / "out", pretrain(), text / "pack", "nf4")
    rows = {row["variant"]: row for row in pq.read_table(tmp_path / "out" / "variants").to_pylist()}
    tokens = TokenSplit(text / "pack", "validation")
    windows = tokens.windows(64)
    model, nats, size = load_variant(tmp_path / "out" / "nf4"), 0.0, 0
    for start in (0, (windows - 1) // 2 * 64, (windows - 1) * 64):  # 192 tokens are three windows, from end to end
        (window,) = torch.from_numpy(tokens.read_at([start], 65))
        with torch.inference_mode():
            logs = model(window[None, :-1])[0].log_softmax(-1)
        nats -= logs[torch.arange(64), window[1:]].sum().item()
        size += int(token_bytes(load(text / "tokenizer"))[window[1:].numpy()].sum())
    assert rows["nf4"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-3)


def test_memory_follows_from_the_bits(pretrain: Callable[..., Path], packed: Path, tmp_path: Path) -> None:
    run(tmp_path, pretrain(), packed, *METHODS)
    model = load_variant(pretrain() / "model")
    total = sum(parameter.numel() for parameter in model.parameters())
    matrix = sum(layer.weight.numel() for layer in matrices(model).values())
    table = model.model.positions.nbytes
    assert loaded_megabytes(model) == pytest.approx((4 * total + table) / 1e6)
    rest, header = 2 * (total - matrix) / 1e6, 0.01
    bits = {"int8": 8, "int8-dynamic": 8, "torchao-int8": 8, "torchao-int4": 4.5}
    bits |= {"nf4": 4.5, "fp4": 4.5, "nf4-double": 4.13, "fp4-double": 4.13}
    for variant, count in bits.items():
        packed_matrices = matrix * count / 8 / 1e6
        found = loaded_megabytes(load_variant(tmp_path / variant))
        assert disk_megabytes(tmp_path / variant) == pytest.approx(packed_matrices + rest, abs=3 * header)
        # Double quantization stores its map of 256 values with each matrix.
        more = table / 1e6 + (14 * 1024 / 1e6 if "double" in variant else 0)
        assert found == pytest.approx(packed_matrices + 2 * rest + more, abs=2.5 * header)


def test_without_variants_the_table_has_only_the_original(
    pretrain: Callable[..., Path], packed: Path, tmp_path: Path
) -> None:
    assert run(tmp_path, pretrain(), packed).rows_out == 0
    assert [row["variant"] for row in pq.read_table(tmp_path / "variants").to_pylist()] == ["original"]


def test_sizes_that_do_not_fit_are_refused_before_any_work(
    pretrain: Callable[..., Path], packed: Path, tmp_path: Path
) -> None:
    source = pretrain(hidden=192, heads=12, kv_heads=1)
    with pytest.raises(UserError, match="k_proj has 192 and 16"):
        run(tmp_path / "out", source, packed, *METHODS)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_llama_cpp_cannot_copy_is_refused_before_any_work(
    pretrain: Callable[..., Path], packed: Path, tmp_path: Path
) -> None:
    source = pretrain()
    tokenizer = load(source / "model")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(source / "model" / "tokenizer.json"))
    with pytest.raises(UserError, match=r"llama\.cpp does not support"):
        run(tmp_path / "out", source, packed, "int8", "q8_0")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_computes_garbage_is_named(
    pretrain: Callable[..., Path], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_wrongly(folder: Path, device: str) -> torch.nn.Module:
        model = load_variant(folder, device)
        if folder.name == "nf4":
            torch.nn.init.normal_(model.model.embed_tokens.weight)
        return model

    monkeypatch.setattr(stage, "load_variant", load_wrongly)
    with pytest.raises(RuntimeError, match="nf4 computes garbage"):
        run(tmp_path, pretrain(), packed, "int8", "nf4")
