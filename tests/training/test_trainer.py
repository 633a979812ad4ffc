"""Settings that do not fit the data, the tokenizer or the workers are refused before training starts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from homegrown.data.loader import TokenSplit
from homegrown.training.objective import NextToken
from homegrown.training.pretraining import Job
from homegrown.training.trainer import Trainer
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
        return Trainer(job, tmp_path, SimpleNamespace(**{**CPU, "count": workers}))

    return make


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": 3}, r"compute.processes \(3\) must divide .* \(2\)"),
        ({"workers": 3, "micro_batch_size": "auto"}, r"compute.processes \(3\) must divide training.batch_size \(4\)"),
        ({"model": {"context": 20_000}}, "model.context"),  # longer than the training split
        ({"sample_prompts": ["fine", "bala " * 40]}, "training.sample_prompts"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_in_one_sentence(build, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        build(**wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^compute\.device is 'cuda', but PyTorch sees no GPU; .*\.$"):
        resolve("cuda")


def test_a_validation_split_shorter_than_the_context_is_measured_whole(build, corpus) -> None:
    trainer = build(model={"context": 10_000})
    length = TokenSplit(corpus["packed"], "validation").tokens
    assert length <= 10_000
    seen: list[int] = []
    alone = SimpleNamespace(
        loss=lambda inputs, *_: seen.append(inputs.shape[1]) or torch.zeros(()), eval=list, train=list
    )
    trainer.worker.sum = lambda values: values
    trainer.validator(alone, 1)
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


def test_a_full_gpu_is_one_sentence_that_names_settings(alone: None, corpus, tiny, tmp_path: Path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(NextToken, "forward", full)
    job = Job(**corpus, model=tiny[0], training=tiny[1], seed=1, device="cpu")
    with pytest.raises(UserError, match=r"training\.micro_batch_size") as refusal:
        run_here([Leg(str(tmp_path / "out"))], job)
    assert "\n" not in str(refusal.value)
