"""Checkpoints: all that training needs to resume bit for bit, written while it continues.

The state holds no random numbers, no position in the data and no place in the learning rate schedule: they are
functions of the seed and the step. A checkpoint is a folder that appears complete, by a rename, with the digests of its
files. None of them is a pickle.
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

from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.store.digests import sha256
from homegrown.training import storage
from homegrown.training.averaging import SUFFIX, WeightAverage
from homegrown.training.metrics import Sample, StepMetrics, metrics_table, samples_table
from homegrown.training.optimizer import make_state, state_tensors, trained
from homegrown.training.schedule import extendable
from homegrown.util import devices
from homegrown.util.errors import is_disk_full
from homegrown.util.files import sync, write_parquet

_DIGESTS = "digests.json"


@dataclass
class TrainingState:
    """The state of training after `step` steps; `best_step` is 0 before the first validation."""

    step: int = 0
    seconds: float = 0.0
    seconds_to_first_step: float | None = None
    best_step: int = 0
    best_loss: float | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    spikes: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    arithmetic: dict[str, int | str] = field(default_factory=dict)
    """What the bits depended on in the process that wrote the checkpoint (`homegrown.training.precision`)."""
    inexact: str = ""
    """Why the run no longer has the bits of an undisturbed one; empty if it has."""
    metrics: list[StepMetrics] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run, `step-<n>`: the newest, that of the best validation, and those that can be extended.

    Every worker of `group` has one and calls `save`, `load` and `settle` together with the others. Each writes its own
    parts of the tensors; the leading one does the rest.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        note: Callable[[str], None],
        group: ProcessGroup | None,
        device: torch.device,
    ):
        """Keep `keep_checkpoints` in `folder`; the leading worker calls `note` with what a person should know."""
        self.folder, self._settings, self._note, self._group = folder, settings, note, group
        on_gpu = devices.traits(device.type).pins
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

    def save(
        self,
        model: Transformer,
        optimizers: Sequence[Optimizer],
        state: TrainingState,
        average: WeightAverage | None = None,
    ) -> None:
        """Copy the tensors in memory, and begin to write them as a checkpoint.

        Calls `settle` first, which waits for the previous checkpoint.
        """
        self.settle(state)
        staged = self._stager.stage(_tensors(model, optimizers, average))
        assert isinstance(staged, dict)
        copied = replace(state, metrics=[*state.metrics], samples=[*state.samples])
        self._writing = state.step, self._thread.submit(self._write, staged, copied)

    def settle(self, state: TrainingState, *, required: bool = False) -> None:
        """Wait until the last checkpoint is on disk.

        If the disk was full, report it, keep the older checkpoints, and forget the step in `state` if it was the best.

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

    def release(self) -> None:
        """Free the memory of the copies; the last checkpoint must be on disk."""
        self._stager.close()

    def newest(self) -> int:
        """Return the step of the newest intact checkpoint, or 0; remove and report damaged ones.

        The leading worker calls it alone.
        """
        for leftover in self.folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
        for step in reversed(self._steps()):
            if all(is_intact(self.at(needed)) for needed in {step, best_step(self.at(step)) or step}):
                return step
            self._note(f"The checkpoint of step {step} is damaged and was skipped.")
            shutil.rmtree(self.at(step))
        return 0

    def load(
        self, step: int, model: Transformer, optimizers: Sequence[Optimizer], average: WeightAverage | None = None
    ) -> TrainingState:
        """Restore model, optimizers and average from an intact checkpoint and return the rest of its state.

        Any number of workers may have written it, with replicated models (DDP) or sharded ones (FSDP2).
        """
        folder = self.at(step)
        make_state(model, optimizers, storage.shapes(folder))
        storage.load(_tensors(model, optimizers, average), folder, self._group)
        state = TrainingState(**json.loads((folder / "state.json").read_text()))
        rows = pq.read_table(folder / "metrics.parquet").to_pylist()
        state.metrics = [
            StepMetrics(**row | {"validation_by_source": dict(row["validation_by_source"])}) for row in rows
        ]
        state.samples = [Sample(**row) for row in pq.read_table(folder / "samples.parquet").to_pylist()]
        return state

    def model(self, step: int, config: ModelConfig) -> Transformer:
        """Return the model of a checkpoint, on the CPU; one worker calls it alone."""
        return self.fill(step, Transformer(config))

    def fill(self, step: int, model: Transformer) -> Transformer:
        """Load a checkpoint's trained weights, or their average, into `model`, on the CPU, and return it.

        One worker calls it alone.
        """
        suffix = "" if self._settings.averaging is None else SUFFIX
        weights = {name + suffix: parameter for name, parameter in trained(model).items()}
        storage.load(weights, self.at(step), None, alone=True)
        return model

    def drop(self, step: int) -> None:
        """Remove the checkpoint of `step`."""
        shutil.rmtree(self.at(step))

    def at(self, step: int) -> Path:
        """Return the folder of the checkpoint of `step`."""
        return checkpoint(self.folder, step)

    def _steps(self) -> list[int]:
        return steps_in(self.folder)

    def _write(self, tensors: dict[str, Tensor], state: TrainingState) -> None:
        temporary = self._unfinished(state.step)
        storage.save(tensors, temporary, self._group, lambda: self._publish(temporary, state))

    def _publish(self, folder: Path, state: TrainingState) -> None:
        """Add the other files to the folder of the tensors, rename it to its place, and remove old checkpoints."""
        write_parquet(folder / "metrics.parquet", metrics_table(state.metrics))
        write_parquet(folder / "samples.parquet", samples_table(state.samples))
        small = {key: value for key, value in asdict(state).items() if key not in ("metrics", "samples")}
        (folder / "state.json").write_text(json.dumps(small, indent=2) + "\n")
        digests = {path.name: sha256(path) for path in sorted(_published(folder))}
        (folder / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")
        for path in folder.iterdir():
            sync(path)
        sync(folder)
        shutil.rmtree(self.at(state.step), ignore_errors=True)
        folder.rename(self.at(state.step))
        sync(self.folder)
        steps = self._steps()
        _remove_all_but(self.folder, [*steps[-self._settings.keep_checkpoints :], *extendable(steps, self._settings)])

    def _give_up(self, step: int) -> None:
        """Remove the unfinished checkpoint after a full disk, and report what is left."""
        if self._group is not None and self._group.rank() != 0:
            return
        shutil.rmtree(self._unfinished(step), ignore_errors=True)
        kept = f"step {self._steps()[-1]} is kept" if self._steps() else "no older one exists"
        self._note(f"The disk is full; the checkpoint of step {step} was not written, {kept}.")

    def _unfinished(self, step: int) -> Path:
        return self.folder / f".{self.at(step).name}.tmp"


def _tensors(model: Transformer, optimizers: Sequence[Optimizer], average: WeightAverage | None) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by name."""
    return trained(model) | state_tensors(model, optimizers) | (average.tensors if average else {})


def checkpoint(folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint in the folder of all."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, in order."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def tidy(folder: Path, settings: TrainingSettings) -> None:
    """Keep of a finished run the last checkpoint, and those that can be extended with their best ones."""
    steps = steps_in(folder)
    _remove_all_but(folder, extendable(steps, settings), steps[-1])


def _remove_all_but(folder: Path, steps: Sequence[int], *more: int) -> None:
    """Remove all but the checkpoints of `steps`, with the best of each, and `more`."""
    best = [best_step(checkpoint(folder, step)) for step in steps]
    kept = {checkpoint(folder, step) for step in (*steps, *best, *more)}
    for path in folder.iterdir():
        if path not in kept:
            shutil.rmtree(path)


def _published(folder: Path) -> list[Path]:
    """Return the files of a checkpoint without the hidden notes of digests, which publishing removes."""
    return list(folder.glob("[!.]*"))


def is_intact(folder: Path) -> bool:
    """Return whether a checkpoint is complete, by the digests of its files."""
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        files = [path for path in _published(folder) if path.name != _DIGESTS]
        return bool(files) and digests == {path.name: sha256(path) for path in files}
    except (OSError, ValueError):
        return False


def best_step(folder: Path) -> int:
    """Return the step of the best validation up to a checkpoint; 0: none."""
    try:
        return int(json.loads((folder / "state.json").read_bytes())["best_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
