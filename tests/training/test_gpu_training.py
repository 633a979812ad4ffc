"""Training on a GPU beside training on the CPU, where there is a GPU: whatever the precision, compiled, resumed."""

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from homegrown.config.model import ModelSettings
from homegrown.config.tokens import PackSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.packing import pack
from homegrown.finetuning.tuning import finetune
from homegrown.model.loss import linear_cross_entropy
from homegrown.training.muon import orthogonal
from homegrown.training.pretraining import pretrain
from tests.finetuning.conversations import pack_conversations, training, tuning, write_base
from tests.training.processes import Process

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"), pytest.mark.slow]

Losses = list[float]


@pytest.fixture(scope="module")
def train(
    corpus: dict[str, Path], tiny: tuple[ModelSettings, TrainingSettings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Losses]:
    def run(device: str, packed: Path = corpus["packed"], **changes: Any) -> Losses:
        out = tmp_path_factory.mktemp("run") / "out"
        settings = tiny[1].model_copy(update={"dropout": 0.0, "compile": "never"} | changes)
        pretrain(out, packed, corpus["tokenizer"], model=tiny[0], settings=settings, seed=1, device=device, processes=1)
        losses: Losses = pq.read_table(out / "metrics.parquet")["loss"].to_pylist()
        return losses

    return run


@pytest.fixture(scope="module")
def on_the_cpu(train: Callable[..., Losses]) -> Losses:
    return train("cpu")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, 0.005),
        ({"precision": "bf16"}, 0.03),
        ({"precision": "fp16"}, 0.03),
        ({"compile": "always"}, 0.005),
        ({"precision": "bf16", "compile": "always"}, 0.03),
        ({"micro_batch_size": "auto"}, 0.005),
        ({"activation_checkpointing": True}, 0.005),
    ],
    ids=str,
)
def test_it_learns_what_the_cpu_does(
    train: Callable[..., Losses], on_the_cpu: Losses, changes: dict[str, Any], error: float
) -> None:
    assert train("cuda", **changes) == pytest.approx(on_the_cpu, rel=error)


@pytest.mark.parametrize("compiled", ["never", "always"])
def test_rows_of_several_documents(
    train: Callable[..., Losses], corpus: dict[str, Path], tmp_path: Path, compiled: str
) -> None:
    shards, settings = corpus["tokenizer"].parent / "shards", PackSettings(layout="best_fit")
    with ThreadPoolExecutor(1) as executor:
        pack(tmp_path, shards, corpus["tokenizer"], settings, context=32, executor=executor)
    assert train("cuda", tmp_path, compile=compiled) == pytest.approx(train("cpu", tmp_path), rel=0.005)


def test_a_killed_run_goes_on(
    train: Callable[..., Losses], corpus: dict[str, Path], tiny: tuple[ModelSettings, TrainingSettings], tmp_path: Path
) -> None:
    settings = tiny[1].model_copy(update={"dropout": 0.0, "compile": "never"})
    process = Process(tmp_path / "out", corpus["packed"], corpus["tokenizer"], tiny[0], settings, device="cuda")
    code, _, _ = process.signal_at("checkpoints/.step-00000010.tmp", 1, "both", tmp_path / "killer")
    assert code == -signal.SIGKILL
    pretrain(
        tmp_path / "out",
        corpus["packed"],
        corpus["tokenizer"],
        model=tiny[0],
        settings=settings,
        seed=1,
        device="cuda",
        processes=1,
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["resumed_from"] in (5, 6)
    losses = pq.read_table(tmp_path / "out" / "metrics.parquet")["loss"].to_pylist()
    assert losses == pytest.approx(train("cuda"), rel=0.005)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_fine_tuning(tmp_path: Path, method: str) -> None:
    pytest.importorskip("peft")
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    base = write_base(tmp_path / "base")
    packed = pack_conversations(tmp_path / "conversations", base)
    losses = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        made = finetune(
            out,
            base,
            packed,
            tuning(method),
            training(max_steps=16, learning_rate=3e-3),
            system=None,
            seed=1,
            device=device,
            processes=1,
        )
        losses[device] = pq.read_table(out / "metrics.parquet")["loss"].to_pylist()
        assert made.metrics["resumed_from"] == 0
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)
    assert losses["cuda"][-1] < losses["cuda"][0]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradients(dtype: torch.dtype, compiled: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5000, 64), 0.3 * torch.randn(700, 64)
    targets = torch.randint(700, (5000,))
    targets[7] = -100
    expected = torch.nn.functional.cross_entropy(
        (hidden.double().requires_grad_() @ weight.double().T), targets, reduction="sum"
    )
    found = {}
    for device in ("cpu", "cuda"):
        here = [tensor.to(device).requires_grad_() for tensor in (hidden.clone(), weight.clone())]
        with torch.autocast(device, dtype, enabled=dtype == torch.bfloat16):
            loss = linear_cross_entropy(*here, None, targets.to(device), compiled=compiled)
        loss.backward()
        found[device] = [loss.item(), *(tensor.grad.cpu() for tensor in here)]
    error = 1e-2 if dtype == torch.bfloat16 else 1e-3
    assert found["cuda"][0] == pytest.approx(expected.item(), rel=error)
    for ours, theirs in zip(found["cuda"][1:], found["cpu"][1:], strict=True):
        assert (ours - theirs).norm() < error * theirs.norm()


def test_muon_turns_many_matrices_as_one_alone() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape, device="cuda") for shape in ((96, 256), (256, 96)) * 20]
    together = orthogonal(matrices, 5, torch.bfloat16)
    for matrix, update in zip(matrices, together, strict=True):
        assert (update - orthogonal([matrix.cpu()], 5, torch.float32)[0].cuda()).norm() < 0.03 * update.norm()
