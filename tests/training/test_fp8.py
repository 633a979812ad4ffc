"""Products in FP8, emulated: their losses beside bfloat16's, the bits of a resumed run, and what is refused."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.training import fp8
from homegrown.training.peak import matmul_peak
from homegrown.training.precision import choose_precision
from homegrown.training.pretraining import Job
from homegrown.util.errors import UserError
from tests.training.side_by_side import Leg, run_here

pytestmark = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is an extra")


@pytest.fixture
def job(corpus, tiny: tuple[ModelSettings, TrainingSettings]) -> Job:
    settings = tiny[1].model_copy(update={"max_steps": 20, "precision": "fp8", "averaging": None})
    return Job(**corpus, model=tiny[0], training=settings, seed=1, device="cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_losses_are_those_of_bfloat16_within_two_hundredths_and_a_resumed_run_has_the_same_bits(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fp8.EMULATED, "1")
    complete, _, resumed, other = run_here(
        [
            Leg(str(tmp_path / "complete")),
            Leg(str(tmp_path / "resumed"), until=11),
            Leg(str(tmp_path / "resumed")),
            Leg(str(tmp_path / "bf16"), changes={"precision": "bf16"}),
        ],
        job,
    )
    losses, expected = ([row.loss for row in one.state.metrics] for one in (complete, other))
    assert losses != expected
    assert losses == pytest.approx(expected, abs=0.02)
    assert losses[-1] < losses[0] - 0.5
    assert [row.loss for row in resumed.state.metrics] == losses
    for name, weight in complete.model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, resumed.model.state_dict()[name])
    assert list(complete.model.state_dict()) == list(other.model.state_dict())
    eight = {name.rpartition(".")[2] for name, one in complete.model.named_modules() if type(one) is not nn.Linear}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} <= eight
    assert type(complete.model.get_submodule("model.embed_tokens")) is type(
        other.model.get_submodule("model.embed_tokens")
    )


@pytest.mark.parametrize(
    ("changes", "emulated", "message"),
    [
        ({}, "0", r"^training\.precision is 'fp8', but a CPU has no FP8 products .*; set it to 'auto'\.$"),
        ({"context": 40}, "1", r"^training\.precision is 'fp8', but the context of 40 is not a multiple of 16"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_what_has_no_fp8_is_refused(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], emulated: str, message: str
) -> None:
    monkeypatch.setenv(fp8.EMULATED, emulated)
    job = job.model_copy(update={"model": job.model.model_copy(update=changes)})
    with pytest.raises(UserError, match=message):
        run_here([Leg(str(tmp_path / "out"))], job)


def test_torchao_and_a_trained_matrix_are_needed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    block = nn.ModuleDict({"q_proj": nn.Linear(24, 64), "lm_head": nn.Linear(64, 64)})
    with pytest.raises(UserError, match="no trained matrix of the blocks has sizes in multiples of 16"):
        fp8.convert(block, 64)
    monkeypatch.setattr(fp8, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"which needs torchao; run pip install '\.\[torchao\]', or set it to 'auto'\.$"
    ):
        fp8.check(job.training, "cuda")
    fp8.check(job.training.model_copy(update={"precision": "auto"}), "cuda")


def test_utilization_is_relative_to_the_peak_of_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homegrown.training.peak._SIZES", (64,))
    monkeypatch.setattr("homegrown.training.peak._SECONDS", 0.01)
    precision = choose_precision("fp8", "cpu")
    assert (precision.dtype, precision.products) == (torch.bfloat16, torch.float8_e4m3fn)
    assert matmul_peak(torch.device("cpu"), precision.products) > 0
    monkeypatch.setenv(fp8.EMULATED, "1")
    assert precision.products == torch.bfloat16
