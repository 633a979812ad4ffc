"""The GPU benchmark without a GPU: it leaves nothing; and the way it takes, on a processor, by real processes."""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from homegrown.planning.gpus import GIB, GPUS, recognized
from homegrown.planning.synthetic import write_synthetic
from homegrown.training import fp8
from tests.training.side_by_side import launched_here

SMALL = [
    *("model.hidden=64", "model.layers=2", "model.heads=2", "model.kv_heads=1", "model.feed_forward=128"),
    *("model.context=128", "tokenizer.vocabulary_size=300", "training.batch_size=4", "training.micro_batch_size=2"),
]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *arguments])
    gpu.main()


def test_without_a_gpu_it_says_so_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run(monkeypatch, "--out", str(tmp_path / "results"))
    assert "no GPU" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_two_workers_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    changes = [part for change in SMALL for part in ("--set", change)]
    run(
        monkeypatch,
        "--device=cpu",
        "--preset=tiny",
        "--seconds=0.1",
        "--count=2",
        f"--out={tmp_path / 'out'}",
        *changes,
    )
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    (file,) = (tmp_path / "out").glob("gpu-*.json")
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["devices"], row["micro_batch_size"], row["batch_size"]) == (2, 2, 4)
    assert row["tokens_per_second"] == last["tiny"]["tokens_per_second"] > 0
    assert 0 < row["utilisation_of_measured_peak"] < 1
    assert row["seconds_to_first_step"] > 0
    assert row["predicted_memory_bytes"] > 10**8
    assert not list(tmp_path.glob("homegrown-probe-*"))


@pytest.mark.slow
def test_the_same_steps_are_trained_in_bfloat16_and_in_fp8(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In this process, and on made-up tokens: a start costs seconds."""
    pytest.importorskip("torchao")
    write_synthetic(tmp_path, 300, 128, 64)
    monkeypatch.setattr(gpu, "tokens_of", lambda *_: tmp_path)
    monkeypatch.setattr(gpu, "measure", lambda *_: SimpleNamespace(tokens_per_second=100))
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setenv(fp8.EMULATED, "0")
    changes = [part for change in SMALL for part in ("--set", change)]
    with launched_here():
        run(monkeypatch, "--device=cpu", "--fp8=tiny", "--minutes=1", *changes)
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert last["bits_per_byte"] == pytest.approx(1, abs=0.02)
    assert last["tokens_per_second"] > 0
    differences = [float(line.split()[-1]) for line in printed.splitlines() if " to " in line]
    assert any(differences)
    assert max(map(abs, differences)) < 0.05


@pytest.mark.parametrize(
    ("said", "gib", "key"),
    [
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA H200", 140, "h200"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80"),
        ("NVIDIA L40S", 45, "l40s"),
        ("NVIDIA L4", 22, "l4"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA GeForce RTX 3090", 24, "rtx3090"),
        ("NVIDIA H100 PCIe", 80, None),  # slower clocks than the table's
        ("Quadro RTX 4000", 8, None),
    ],
)
def test_drivers_names_are_recognized(said: str, gib: int, key: str | None) -> None:
    assert recognized(said, gib * GIB) is (GPUS[key] if key else None)
