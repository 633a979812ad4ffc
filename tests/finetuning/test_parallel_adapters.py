"""Two workers, with ddp or fsdp, train the same adapter as one."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from homegrown.finetuning.job import FinetuneJob
from homegrown.model import lora
from tests.finetuning.conversations import loop, pack_conversations, tuning, write_base
from tests.training.side_by_side import Leg, run_here, run_in_two

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def outs(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs: by one worker, by two as `ddp` and `fsdp`, and by one that switches three times."""
    outs = tmp_path_factory.mktemp("outs")
    # Not tied, so that marks have rows of their own in the output projection too.
    base = write_base(outs / "base", tied=False)
    job = FinetuneJob(
        packed=pack_conversations(outs / "conversations", base),
        tokenizer=base,
        base=base,
        # A bound that gradients exceed, so that clipping decides what is learned.
        training=loop(max_steps=STEPS, micro_batch_size=2, validate_every=3, sample_every=3, clip_norm=0.1),
        finetuning=tuning(dropout=0.1),
        seed=1,
        device="cpu",
    )

    def leg(name: str, until: int = STEPS, parallel: str = "ddp", method: str = "lora") -> Leg:
        return Leg(str(outs / name), until, parallel, method=method)

    run_here([leg("one"), leg("qlora", method="qlora"), leg("mixed", 1)], job)
    run_in_two(
        [
            leg("ddp"),
            leg("fsdp", parallel="fsdp"),
            leg("mixed", 3, "fsdp"),
            leg("mixed", 4),
            leg("qlora-ddp", method="qlora"),
        ],
        job,
    )
    run_here([leg("mixed")], job)
    return outs


PAIRS = [("ddp", "one"), ("fsdp", "one"), ("mixed", "one"), ("qlora-ddp", "qlora")]


@pytest.mark.parametrize(("name", "single"), PAIRS)
def test_two_workers_have_the_loss_curve_of_one_with_twice_the_accumulation(outs: Path, name: str, single: str) -> None:
    together, by_one = (json.loads((outs / run / "metrics.json").read_text()) for run in (name, single))
    assert [row["step"] for row in together] == list(range(1, STEPS + 1))
    assert min(row["gradient_norm"] for row in by_one) > 0.1
    for column in ("loss", "gradient_norm", "validation_loss"):
        ours, theirs = ([row[column] for row in run if row[column] is not None] for run in (together, by_one))
        assert ours == pytest.approx(theirs, rel=2e-3), column


@pytest.mark.parametrize(("name", "single"), PAIRS)
def test_they_write_the_same_complete_adapter(outs: Path, name: str, single: str) -> None:
    together, by_one = (load_file(outs / run / "adapter" / lora.WEIGHTS) for run in (name, single))
    assert {name: one.shape for name, one in together.items()} == {name: one.shape for name, one in by_one.items()}
    for tensor, ours in together.items():
        assert (ours - by_one[tensor]).norm() < 0.02 * by_one[tensor].norm(), tensor
    configurations = [(outs / run / "adapter" / lora.CONFIG).read_text() for run in (name, single)]
    assert configurations[0] == configurations[1]


def test_checkpoints_have_the_shards_of_the_adapter_only(outs: Path) -> None:
    checkpoint = outs / "fsdp" / "checkpoints" / f"step-{STEPS:08d}"
    parts = [load_file(checkpoint / f"part-{part}-of-2.safetensors") for part in (1, 2)]
    down = "model.layers.0.self_attn.q_proj.lora_A"
    assert [part[down].shape for part in parts] == [(2, 64), (2, 64)]
    names = {name.partition("/")[0] for part in parts for name in part}
    assert all("lora_" in name or name.endswith(".rows") for name in names)
