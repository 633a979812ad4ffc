"""Two workers, with replicas or shards of the model, train as one does and resume each other's checkpoints."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training.pretraining import Job
from tests.training.side_by_side import Leg, run_here, run_in_two

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def job(corpus: dict[str, Path], tiny: tuple[ModelSettings, TrainingSettings]) -> Job:
    settings = tiny[1].model_copy(update={"max_steps": STEPS, "validate_every": 3, "sample_every": 3})
    return Job(**corpus, model=tiny[0], training=settings, seed=1, device="cpu")


@pytest.fixture(scope="module")
def outs(alone: None, tmp_path_factory: pytest.TempPathFactory, job: Job) -> Path:
    """Folders of runs: by one worker, by two with `ddp` and `fsdp`, and one that changes workers four times."""
    outs = tmp_path_factory.mktemp("outs")

    def leg(name: str, *rest: Any) -> Leg:
        return Leg(str(outs / name), *rest)

    run_here([leg("one"), leg("mixed", 1)], job)
    two = [
        leg("ddp"),
        leg("fsdp", STEPS, "fsdp", {"activation_checkpointing": True}),
        leg("mixed", 3, "fsdp"),
        leg("mixed", 4, "ddp"),
        leg("mixed", 5, "fsdp"),
        leg("diverging", STEPS, "ddp", {"learning_rate": 1e30, "warmup_steps": 0, "rollback_after": 3}),
    ]
    run_in_two(two, job)
    run_here([leg("mixed")], job)
    return outs


@pytest.mark.parametrize("name", ["ddp", "fsdp", "mixed"])
def test_two_workers_have_the_loss_curve_of_one_with_twice_the_accumulation(outs: Path, name: str) -> None:
    """So does a run that changes workers: from one to two with FSDP2, to DDP, to FSDP2 and back to one."""
    together, by_one = (json.loads((outs / run / "metrics.json").read_text()) for run in (name, "one"))
    assert [row["step"] for row in together] == list(range(1, STEPS + 1))
    for column in ("loss", "gradient_norm", "validation_loss"):
        ours, theirs = ([row[column] for row in run if row[column] is not None] for run in (together, by_one))
        assert ours == pytest.approx(theirs, rel=2e-3), column


@pytest.mark.parametrize("name", ["ddp", "fsdp", "mixed"])
def test_they_end_with_the_same_weights(outs: Path, name: str) -> None:
    """Muon's updates have a fixed size: a matrix orthogonalized in parts would end far from a complete one."""
    together, by_one = (load_file(outs / run / "model" / "model.safetensors") for run in (name, "one"))
    assert together.keys() == by_one.keys()
    for tensor, ours in together.items():
        difference = (ours - by_one[tensor]).norm() / by_one[tensor].norm()
        assert difference < 0.02, tensor


def test_sharded_models_are_written_in_parts_and_sampled_unsharded(outs: Path) -> None:
    checkpoint = outs / "fsdp" / "checkpoints" / f"step-{STEPS:08d}"
    embedding = "model.embed_tokens.weight"
    parts = [load_file(checkpoint / f"part-{part}-of-2.safetensors") for part in (1, 2)]
    assert [part[embedding].shape for part in parts] == [(256, 64), (256, 64)]
    samples = [
        pq.read_table(outs / run / "checkpoints" / checkpoint.name / "samples.parquet") for run in ("fsdp", "one")
    ]
    assert samples[0].num_rows == 4
    assert samples[0].select(["step", "prompt"]).equals(samples[1].select(["step", "prompt"]))


def test_two_workers_give_up_together(outs: Path) -> None:
    refusals = [(outs / "diverging" / f"refusal-{rank}").read_text() for rank in (0, 1)]
    assert refusals[0] == refusals[1]
    assert re.search(r"up to step \d; lower training\.learning_rate", refusals[0])
    assert "\n" not in refusals[0]


def test_blocks_computed_again_have_the_same_gradients() -> None:
    torch.manual_seed(0)
    shape = ModelSettings(family="modern", hidden=64, layers=2, heads=4, kv_heads=2, feed_forward=128, context=32)
    model = Transformer(ModelConfig.from_settings(shape, 300, 0.1))
    model.initialize()
    tokens = torch.randint(300, (2, 17))
    gradients = []
    for model.model.checkpointing in (False, True):
        torch.manual_seed(1)  # the same dropout
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad(set_to_none=True)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
