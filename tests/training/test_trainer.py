"""The trainer in this process: settings that it refuses before it starts, and callbacks from outside."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from homegrown.data.loader import TokenSplit
from homegrown.training.callbacks import Validate, standard
from homegrown.training.next_token import NextToken
from homegrown.training.precision import Precision
from homegrown.training.pretraining import Job
from homegrown.training.progress_file import Report
from homegrown.training.trainer import Callback, Step, Trainer
from homegrown.util.devices import resolve
from homegrown.util.errors import UserError
from tests.training.side_by_side import Leg, run_here

CPU = {"rank": 0, "count": 1, "kind": "cpu", "device": torch.device("cpu")}


@pytest.fixture
def build(corpus, tiny, tmp_path: Path):
    def make(*, workers: int = 1, model: dict[str, Any] | None = None, **changes: Any) -> Trainer:
        model_settings, settings = tiny
        job = Job(
            **corpus,
            model=model_settings.model_copy(update=model or {}),
            training=settings.model_copy(update=changes),
            seed=1,
            device="cpu",
        )
        worker = SimpleNamespace(**{**CPU, "count": workers})
        return Trainer(job, tmp_path, worker, Report(tmp_path / "progress.jsonl"), standard())

    return make


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": 3}, r"compute.processes \(3\) must divide .* \(4\)"),
        ({"workers": 3, "micro_batch_size": "auto"}, r"compute.processes \(3\) must divide training.batch_size \(4\)"),
        ({"model": {"context": 20_000}}, "model.context"),  # longer than the training split
        ({"sample_prompts": ["fine", "bala " * 40]}, "training.sample_prompts"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(build, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        build(**wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"^compute\.device is 'cuda', but PyTorch sees no accelerator; .*\.$"):
        resolve("cuda")


def test_a_validation_split_shorter_than_the_context_is_measured_completely(build, corpus) -> None:
    trainer = build(model={"context": 10_000})
    length = TokenSplit(corpus["packed"], "validation").tokens
    assert length <= 10_000
    seen: list[int] = []
    alone = SimpleNamespace(
        loss=lambda inputs, *_: seen.append(inputs.shape[1]) or torch.zeros(()), eval=list, train=list
    )
    trainer.worker.sum = lambda values: values
    validate = next(callback for callback in trainer.callbacks if isinstance(callback, Validate))
    validate.validator(NextToken(alone), 1)
    assert seen == [length - 1]


def test_tokens_of_another_tokenizer_are_refused(build, corpus, monkeypatch, tmp_path: Path) -> None:
    text = (corpus["tokenizer"] / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace('"<|im_end|>"', '"<|end|>"', 1))
    monkeypatch.setitem(corpus, "tokenizer", tmp_path)
    with pytest.raises(UserError, match=r"vocabulary of 512, but the tokenizer in .* has 513"):
        build()


def test_weights_depend_on_the_seed_alone(build) -> None:
    first, second = build(), build()
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_full_gpu_is_an_error_that_names_settings(alone: None, corpus, tiny, tmp_path: Path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(NextToken, "forward", full)
    job = Job(**corpus, model=tiny[0], training=tiny[1], seed=1, device="cpu")
    with pytest.raises(UserError, match=r"training\.micro_batch_size") as refusal:
        run_here([Leg(str(tmp_path / "out"))], job)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for OpenMP's library as Linux lists it")
def test_workers_have_a_fixed_number_of_threads() -> None:
    """With OMP_DYNAMIC, OpenMP takes fewer threads on a busy machine; products then had other bits, or hung."""
    program = """
import ctypes
from homegrown.training.worker import prepare_environment
prepare_environment()
import torch
torch.set_num_threads(2)
library = next(line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line)
print(ctypes.CDLL(library).omp_get_dynamic())
"""
    environment = os.environ | {"OMP_DYNAMIC": "TRUE"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_resume_on_other_arithmetic_is_reported(alone: None, corpus, tiny, tmp_path: Path, threads: int) -> None:
    job = Job(**corpus, model=tiny[0], training=tiny[1].model_copy(update={"max_steps": 6}), seed=1, device="cpu")
    run_here([Leg(str(tmp_path / "out"), until=3)], job)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (resumed,) = run_here([Leg(str(tmp_path / "out"))], job)
    finally:
        torch.set_num_threads(before)
    lines = map(json.loads, (tmp_path / "out" / "progress.jsonl").read_text().splitlines())
    notes = [line["metrics"]["note"] for line in lines if "note" in line["metrics"]]
    if threads == 1:
        assert (resumed.state.inexact, notes) == ("", [])
    else:
        assert resumed.state.inexact.startswith("resumed at step 3 on other arithmetic (threads 1 → 2")
        (note,) = notes
        assert note == f"Training {resumed.state.inexact}; its weights are not those of an undisturbed run."


@pytest.mark.parametrize(
    ("device", "dtype", "isa", "why"),
    [
        ("cuda", torch.float32, "", "computed on a GPU"),
        ("cpu", torch.float32, "", ""),
        ("cpu", torch.bfloat16, "", "bfloat16 on AMX"),
        ("cpu", torch.bfloat16, "avx512_core_amx", "bfloat16 on AMX"),
        ("cpu", torch.bfloat16, "AVX512_CORE_BF16", ""),
    ],
)
def test_bits_are_promised_by_device_type_and_instructions(
    monkeypatch: pytest.MonkeyPatch, device: Literal["cpu", "cuda"], dtype: torch.dtype, isa: str, why: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert Precision(device, dtype).inexact() == why


class LossSum(Callback):
    """A callback that the package does not know: it adds up every second loss, and finishes at a sum."""

    every = 2

    def __init__(self, enough: float = math.inf):
        self.enough, self.total = enough, 0.0
        self.calls: list[str] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        self.calls.append("begin")

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        assert trainer.state.metrics[-1].step == step.number
        assert (step.validation is None) == (step.number % 6 != 0)
        self.calls.append(f"step {step.number}")
        self.total += step.update.loss

    def on_train_end(self, trainer: Trainer) -> None:
        self.calls.append("end")

    def finished(self, trainer: Trainer) -> bool:
        return self.total >= self.enough

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


def test_a_callback_from_outside_resumes_and_changes_no_weights(alone: None, corpus, tiny, tmp_path: Path) -> None:
    job = Job(**corpus, model=tiny[0], training=tiny[1].model_copy(update={"max_steps": 12}), seed=1, device="cpu")
    without, outs = run_here([Leg(str(tmp_path / "without"))], job), [tmp_path / "with", tmp_path / "finished"]
    first, second = LossSum(), LossSum()
    threads = torch.get_num_threads()
    run_here([Leg(str(outs[0]), until=5)], job, first)
    (resumed,) = run_here([Leg(str(outs[0]))], job, second)
    assert first.calls == ["begin", "step 2", "step 4", "end"]
    assert second.calls == ["begin", "step 6", "step 8", "step 10", "step 12", "end"]
    assert torch.get_num_threads() == threads
    losses = [row.loss for row in without[0].state.metrics]
    assert second.total == sum(losses[1::2], 0.0)
    assert [row.loss for row in resumed.state.metrics] == losses
    for ours, theirs in zip(resumed.model.parameters(), without[0].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)

    (ended,) = run_here([Leg(str(outs[1]))], job, LossSum(enough=sum(losses[1:8:2])))
    assert ended.finished
    assert ended.state.step == ended.checkpoints.newest() == 8
