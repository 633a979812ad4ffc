"""Checkpoints: complete, checked, and never more than needed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.optim import Optimizer

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.recipe import ModelSettings, TrainingSettings
from homegrown.training.checkpoints import Checkpoints, TrainingState
from homegrown.training.metrics import Sample, StepMetrics
from homegrown.training.optimizer import optimizers as make_optimizers


@pytest.fixture
def build(
    model_settings: ModelSettings, training_settings: TrainingSettings
) -> Callable[[], tuple[Transformer, list[Optimizer]]]:
    def new() -> tuple[Transformer, list[Optimizer]]:
        model = Transformer(ModelConfig.from_settings(model_settings, 300, 0.0))
        model.initialise()
        return model, make_optimizers(model, training_settings)

    return new


def learn(model: Transformer, optimizers: list[Optimizer], step: int) -> None:
    tokens = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(step))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def metrics(step: int) -> StepMetrics:
    validation = (2.5, 1.5) if step % 2 else (None, None)
    return StepMetrics(step, 64 * step, 1 / 3, 1e-3, 0.7, 1e4, 0.4, 5 * 10**8, step == 2, 0.1 * step, *validation)


def checkpointed(folder: Path, model: Transformer, optimizers: list[Optimizer], steps: int) -> Checkpoints:
    """Take `steps` steps with a checkpoint after each; the best validation was at step 2."""
    checkpoints, state = Checkpoints(folder), TrainingState()
    for step in range(1, steps + 1):
        learn(model, optimizers, step)
        state.step, state.seconds = step, 0.1 * step
        state.metrics.append(metrics(step))
        state.samples.append(Sample(step, "a", "b\n\u2028"))
        if step == 2:
            state.best_step, state.best_loss = step, 0.1 + 0.2
            checkpoints.save_best(model, step)
        checkpoints.save(model, optimizers, state)
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_training_goes_on_bit_for_bit(build, tmp_path: Path) -> None:
    model, optimizer = build()
    checkpoints = checkpointed(tmp_path, model, optimizer, 3)
    learn(model, optimizer, 4)
    again, its_optimizer = build()
    state = checkpoints.load(3, again, its_optimizer)
    assert state == TrainingState(
        step=3,
        seconds=0.1 * 3,
        best_step=2,
        best_loss=0.1 + 0.2,
        metrics=[metrics(step) for step in (1, 2, 3)],
        samples=[Sample(step, "a", "b\n\u2028") for step in (1, 2, 3)],
    )
    learn(again, its_optimizer, 4)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_two_checkpoints_and_the_best_weights_are_kept(build, tmp_path: Path) -> None:
    checkpointed(tmp_path, *build(), 5)
    assert names(tmp_path) == ["best-00000002", "step-00000004", "step-00000005"]


def flip_a_byte(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    path = folder / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_the_digests(folder: Path) -> None:
    (folder / "digests.json").unlink()


def empty_the_digests(folder: Path) -> None:
    (folder / "digests.json").write_text("{}")


def garble_the_digests(folder: Path) -> None:
    (folder / "digests.json").write_bytes(b"\xff\x00[")


def garble_the_state(folder: Path) -> None:
    (folder / "state.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate,
        lose_a_file,
        lose_the_digests,
        empty_the_digests,
        garble_the_digests,
        garble_the_state,
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(build, tmp_path: Path, damage) -> None:
    checkpoints, notes = checkpointed(tmp_path, *build(), 4), []
    damage(tmp_path / "step-00000004")
    assert checkpoints.newest(notes.append) == 3
    assert notes == ["The checkpoint of step 4 is damaged and was passed over."]


def test_a_checkpoint_whose_best_weights_are_damaged_is_passed_over(build, tmp_path: Path) -> None:
    checkpoints, notes = checkpointed(tmp_path, *build(), 2), []
    (tmp_path / "best-00000002" / "model.safetensors").write_bytes(b"")
    assert checkpoints.newest(notes.append) == 1  # at step 1 there was no validation yet
    assert len(notes) == 1


def test_a_half_written_checkpoint_is_cleared_away(build, tmp_path: Path) -> None:
    checkpoints, notes = checkpointed(tmp_path, *build(), 2), []
    shutil.copytree(tmp_path / "step-00000002", tmp_path / ".step-00000003.tmp")
    assert checkpoints.newest(notes.append) == 2
    assert names(tmp_path) == ["best-00000002", "step-00000001", "step-00000002"]
    assert notes == []


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").newest(print) == 0
