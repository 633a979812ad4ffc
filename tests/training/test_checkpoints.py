"""Checkpoints: complete, checked, and never more than needed."""

import errno
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.optim import Optimizer

from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training import storage
from homegrown.training.checkpoints import Checkpoints, TrainingState, tidy
from homegrown.training.metrics import Sample, StepMetrics
from homegrown.training.optimizer import optimizers as make_optimizers

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def build(
    alone: None, model_settings: ModelSettings, training_settings: TrainingSettings
) -> Callable[[], tuple[Transformer, list[Optimizer]]]:
    def new() -> tuple[Transformer, list[Optimizer]]:
        model = Transformer(ModelConfig.from_settings(model_settings, 300, 0.0))
        model.initialize()
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


def opened(folder: Path, keep: int = 2, note: Callable[[str], None] = print, **changes: Any) -> Checkpoints:
    settings = load_recipe("tiny").training.model_copy(update={"keep_checkpoints": keep, **changes})
    return Checkpoints(folder, settings, note, dist.group.WORLD, torch.device("cpu"))


def checkpointed(
    folder: Path, model: Transformer, optimizers: list[Optimizer], steps: int, keep: int = 2, **changes: Any
) -> Checkpoints:
    """Take `steps` steps with a checkpoint after each; the best validation was at step 2."""
    checkpoints, state = opened(folder, keep, **changes), TrainingState()
    for step in range(1, steps + 1):
        learn(model, optimizers, step)
        state.step, state.seconds = step, 0.1 * step
        state.metrics.append(metrics(step))
        state.samples.append(Sample(step, "a", "b\n\u2028"))
        if step == 2:
            state.best_step, state.best_loss = step, 0.1 + 0.2
        checkpoints.save(model, optimizers, state)
    checkpoints.settle(state)
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def four(build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of four steps, of which the newest three are kept."""
    folder = tmp_path_factory.mktemp("four")
    checkpointed(folder, *build(), 4, keep=3)
    return folder


def test_training_resumes_bit_for_bit(build, tmp_path: Path) -> None:
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
    files = []
    for folder, one, its in (("not resumed", model, optimizer), ("resumed", again, its_optimizer)):
        writer, state = opened(tmp_path / folder), TrainingState(step=4)
        writer.save(one, its, state)
        writer.settle(state)
        files.append((writer.at(4) / "part-1-of-1.safetensors").read_bytes())
    assert files[0] == files[1]


def test_the_newest_and_the_best_are_kept(build, four: Path, tmp_path: Path) -> None:
    checkpointed(tmp_path, *build(), 4, keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000004"]
    assert names(four) == ["step-00000002", "step-00000003", "step-00000004"]


def test_those_before_a_decay_are_kept(build, tmp_path: Path) -> None:
    wsd = {"schedule": "wsd", "max_steps": 7, "warmup_steps": 1, "decay_steps": 3}
    kept = checkpointed(tmp_path, *build(), 7, keep=3, **wsd)
    assert names(tmp_path) == [f"step-0000000{step}" for step in (2, 3, 4, 5, 6, 7)]  # 2 is also the best
    tidy(tmp_path, load_recipe("tiny").training.model_copy(update=wsd | {"keep_checkpoints": 2}))
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000007"]
    assert kept.newest() == 7
    tidy(tmp_path, load_recipe("tiny").training.model_copy(update=wsd | {"keep_checkpoints": 1}))
    assert names(tmp_path) == ["step-00000007"]


def test_updates_during_the_writing_of_a_checkpoint_are_not_in_it(build, tmp_path: Path, monkeypatch) -> None:
    learning = threading.Event()
    write = storage.save

    def late(*arguments: Any) -> None:
        assert learning.wait(20)
        write(*arguments)

    monkeypatch.setattr(storage, "save", late)
    model, optimizers = build()
    checkpoints, state = opened(tmp_path), TrainingState(step=1)
    learn(model, optimizers, 1)
    state.metrics.append(metrics(1))
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    checkpoints.save(model, optimizers, state)
    learn(model, optimizers, 2)
    state.step = 2
    state.metrics.append(metrics(2))
    learning.set()
    checkpoints.settle(state)
    again, its_optimizers = build()
    saved = checkpoints.load(1, again, its_optimizers)
    assert (saved.step, saved.metrics) == (1, [metrics(1)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.named_parameters())


def test_the_model_of_a_checkpoint_is_complete(build, tmp_path: Path) -> None:
    model, optimizers = build()
    again = checkpointed(tmp_path, model, optimizers, 1).model(1, model.config)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_file_of_a_checkpoint_is_a_pickle(four: Path) -> None:
    """A pickle of protocol 2 or later starts with 0x80; torch.save writes one in a zip."""
    files = sorted((four / "step-00000004").iterdir())
    assert [file.name for file in files] == [
        "digests.json",
        "metrics.parquet",
        "part-1-of-1.safetensors",
        "samples.parquet",
        "state.json",
    ]
    assert not [file for file in files if file.read_bytes()[:1] == b"\x80" or zipfile.is_zipfile(file)]


def flip_a_byte(folder: Path) -> None:
    path = folder / "part-1-of-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    path = folder / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_file(folder: Path) -> None:
    (folder / "part-1-of-1.safetensors").unlink()


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
def test_a_damaged_checkpoint_is_skipped_and_reported(four: Path, tmp_path: Path, damage) -> None:
    notes: list[str] = []
    shutil.copytree(four, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "step-00000004")
    assert opened(tmp_path, note=notes.append).newest() == 3
    assert notes == ["The checkpoint of step 4 is damaged and was skipped."]


def test_a_checkpoint_whose_best_weights_are_damaged_is_skipped(build, tmp_path: Path) -> None:
    notes: list[str] = []
    checkpointed(tmp_path, *build(), 3, keep=3)
    (tmp_path / "step-00000002" / "part-1-of-1.safetensors").write_bytes(b"")
    assert opened(tmp_path, note=notes.append).newest() == 1  # at step 1 there was no validation yet
    assert notes == [f"The checkpoint of step {step} is damaged and was skipped." for step in (3, 2)]


def test_a_half_written_checkpoint_is_cleared_away(four: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    shutil.copytree(four / "step-00000004", tmp_path / "step-00000004")
    shutil.copytree(four / "step-00000002", tmp_path / "step-00000002")
    shutil.copytree(four / "step-00000002", tmp_path / ".step-00000005.tmp")
    assert opened(tmp_path, note=notes.append).newest() == 4
    assert names(tmp_path) == ["step-00000002", "step-00000004"]
    assert notes == []


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert opened(tmp_path / "none").newest() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with space for one checkpoint of the test's model (0.7 MB), not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_a_checkpoint_and_no_more(build, small_disk: Path) -> None:
    notes: list[str] = []
    model, optimizers = build()
    checkpoints, state = opened(small_disk / "checkpoints", keep=1, note=notes.append), TrainingState()
    for state.step in (1, 2):
        learn(model, optimizers, state.step)
        if state.step == 2:
            state.best_step, state.best_loss = 2, 1.0
        checkpoints.save(model, optimizers, state)
    checkpoints.settle(state)
    assert notes == ["The disk is full; the checkpoint of step 2 was not written, step 1 is kept."]
    assert names(small_disk / "checkpoints") == ["step-00000001"]
    assert (state.best_step, state.best_loss) == (0, None)
    assert opened(small_disk / "checkpoints").newest() == 1
    checkpoints.save(model, optimizers, state)
    with pytest.raises(OSError, match="No space left") as full:
        checkpoints.settle(state, required=True)
    assert full.value.errno == errno.ENOSPC
    shutil.rmtree(small_disk / "checkpoints" / "step-00000001")
    state.step = 3
    checkpoints.save(model, optimizers, state)
    checkpoints.settle(state, required=True)
    assert opened(small_disk / "checkpoints").newest() == 3
