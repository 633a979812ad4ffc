"""Checkpoints: all that training needs to go on as if it had not stopped, written while it goes on.

The state holds no random numbers, no position in the data and no place in the schedule of the learning rate, because
they are functions of the seed and the step. A checkpoint is a folder that appears whole, by a rename, with the digests
of its files; no pickle is in any of them.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.store.digests import sha256
from homegrown.training import storage
from homegrown.training.metrics import Sample, StepMetrics, metrics_table, samples_table
from homegrown.training.optimizer import make_state, state_tensors, trained
from homegrown.util.errors import is_disk_full
from homegrown.util.files import sync, write_parquet

_DIGESTS = "digests.json"


@dataclass
class TrainingState:
    """Where training stands after `step` steps; `best_step` 0 means that no validation has taken place."""

    step: int = 0
    seconds: float = 0.0
    seconds_to_first_step: float | None = None
    best_step: int = 0
    best_loss: float | None = None
    validations_since_best: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    spikes: dict[str, Any] = field(default_factory=dict)
    metrics: list[StepMetrics] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run, `step-<n>`: the newest `keep`, and that of the best validation.

    Every worker of `group` has one and calls `save`, `load` and `settle` when the others do. Each writes the parts of
    the tensors that it holds; the first of them does the rest.
    """

    def __init__(
        self, folder: Path, keep: int, note: Callable[[str], None], group: ProcessGroup | None, device: torch.device
    ):
        """Keep them in `folder`; `note` is called, in the first worker, with a sentence for the person who watches."""
        self.folder, self._keep, self._note, self._group = folder, keep, note, group
        on_gpu = device.type == "cuda"
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future[None]] | None = None

    def save(self, model: Transformer, optimizers: Sequence[Optimizer], state: TrainingState) -> None:
        """Begin to write a checkpoint; only a copy of the tensors in memory is waited for.

        If the one begun before is still being written, wait for it first, with what `settle` does.
        """
        self.settle(state)
        staged = self._stager.stage(trained(model) | state_tensors(model, optimizers))
        assert isinstance(staged, dict)
        told = replace(state, metrics=[*state.metrics], samples=[*state.samples])
        self._writing = state.step, self._thread.submit(self._write, staged, told)

    def settle(self, state: TrainingState, *, required: bool = False) -> None:
        """Wait until the checkpoint that was begun last is on disk.

        If the disk was full, say so, keep what there is, and forget the step in `state` if it was the best.

        Raises:
            OSError: the disk was full (ENOSPC) and the checkpoint is `required`.
            RuntimeError: it could not be written for another reason.
        """
        if self._writing is None:
            return
        (step, written), self._writing = self._writing, None
        try:
            written.result()
        except CheckpointException as failure:
            if not is_disk_full(failure):
                raise RuntimeError(f"The checkpoint of step {step} could not be written.") from failure
            if required:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from None
            if state.best_step == step:
                state.best_step, state.best_loss = 0, None
            self._give_up(step)

    def newest(self) -> int:
        """Return the step of the newest intact checkpoint, 0 if there is none; remove and note damaged ones.

        The first worker calls it alone.
        """
        for leftover in self.folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
        for step in reversed(self._steps()):
            if all(_is_intact(self.at(needed)) for needed in {step, _best_step(self.at(step)) or step}):
                return step
            self._note(f"The checkpoint of step {step} is damaged and was passed over.")
            shutil.rmtree(self.at(step))
        return 0

    def load(self, step: int, model: Transformer, optimizers: Sequence[Optimizer]) -> TrainingState:
        """Restore model and optimizers from an intact checkpoint and return the rest of its state.

        It may have been written by another number of workers, and by whole models (DDP) or sharded ones (FSDP2).
        """
        folder = self.at(step)
        make_state(model, optimizers, storage.shapes(folder))
        storage.load(trained(model) | state_tensors(model, optimizers), folder, self._group)
        state = TrainingState(**json.loads((folder / "state.json").read_text()))
        state.metrics = [StepMetrics(**row) for row in pq.read_table(folder / "metrics.parquet").to_pylist()]
        state.samples = [Sample(**row) for row in pq.read_table(folder / "samples.parquet").to_pylist()]
        return state

    def model(self, step: int, config: ModelConfig) -> Transformer:
        """Return the whole model of a checkpoint, on the CPU; one worker calls it alone."""
        return self.fill(step, Transformer(config))

    def fill(self, step: int, model: Transformer) -> Transformer:
        """Return `model`, a whole one on the CPU, with what a checkpoint has learned; one worker calls it alone."""
        storage.load(trained(model), self.at(step), None, alone=True)
        return model

    def drop(self, step: int) -> None:
        """Remove the checkpoint of `step`, which turned out to be of no use."""
        shutil.rmtree(self.at(step))

    def at(self, step: int) -> Path:
        """Return the folder of the checkpoint of `step`."""
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def _write(self, tensors: dict[str, Tensor], state: TrainingState) -> None:
        temporary = self._unfinished(state.step)
        storage.save(tensors, temporary, self._group, lambda: self._publish(temporary, state))

    def _publish(self, folder: Path, state: TrainingState) -> None:
        """Complete the folder in which all tensors are, and have it appear under its name; then remove old ones."""
        write_parquet(folder / "metrics.parquet", metrics_table(state.metrics))
        write_parquet(folder / "samples.parquet", samples_table(state.samples))
        small = {key: value for key, value in asdict(state).items() if key not in ("metrics", "samples")}
        (folder / "state.json").write_text(json.dumps(small, indent=2) + "\n")
        digests = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        (folder / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")
        for path in folder.iterdir():
            sync(path)
        sync(folder)
        shutil.rmtree(self.at(state.step), ignore_errors=True)
        folder.rename(self.at(state.step))
        sync(self.folder)
        self._remove_all_but(self._steps()[-self._keep :])

    def _remove_all_but(self, steps: list[int]) -> None:
        kept = {self.at(step) for step in steps} | {self.at(_best_step(self.at(step))) for step in steps}
        for path in self.folder.iterdir():
            if path not in kept:
                shutil.rmtree(path)

    def _give_up(self, step: int) -> None:
        """Make room again after a full disk, and say what is left."""
        if self._group is not None and self._group.rank() != 0:
            return
        shutil.rmtree(self._unfinished(step), ignore_errors=True)
        kept = f"that of step {self._steps()[-1]} is kept" if self._steps() else "there is none before it"
        self._note(f"The disk is full, so the checkpoint of step {step} was not written; {kept}.")

    def _unfinished(self, step: int) -> Path:
        return self.folder / f".{self.at(step).name}.tmp"


def _is_intact(folder: Path) -> bool:
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        files = [path for path in folder.iterdir() if path.name != _DIGESTS]
        return bool(files) and digests == {path.name: sha256(path) for path in files}
    except (OSError, ValueError):
        return False


def _best_step(folder: Path) -> int:
    try:
        return int(json.loads((folder / "state.json").read_bytes())["best_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
