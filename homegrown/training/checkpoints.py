"""Checkpoints: all that training needs to go on as if it had not stopped.

The state holds no random numbers and no position in the data, because both are functions of the seed and the step.
A checkpoint is a folder that appears whole, by a rename, with the digests of its files; no pickle is written or read.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from homegrown.files import sync, write_parquet
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.training.metrics import Sample, StepMetrics, metrics_table, samples_table
from homegrown.training.optimizer import restore_state, state_tensors

KEPT = 2
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
    """The checkpoints of one run: `step-<n>` to go on from, and `best-<n>`, the weights of the best validation."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, model: Transformer, optimizers: Sequence[Optimizer], state: TrainingState) -> None:
        """Write a checkpoint, then remove all but the newest two and the best weights that those refer to."""
        with self._publishing(self._step(state.step)) as folder:
            weights.save(model, folder)
            save_file(state_tensors(model, optimizers), folder / "optimizer.safetensors")
            write_parquet(folder / "metrics.parquet", metrics_table(state.metrics))
            write_parquet(folder / "samples.parquet", samples_table(state.samples))
            small = {key: value for key, value in asdict(state).items() if key not in ("metrics", "samples")}
            (folder / "state.json").write_text(json.dumps(small, indent=2) + "\n")
        self._keep(self._steps()[-KEPT:], state.best_step)

    def save_best(self, model: Transformer, step: int) -> None:
        """Write the weights of the best validation so far, which was at `step`."""
        with self._publishing(self.best(step)) as folder:
            weights.save(model, folder)
        self._keep(self._steps(), step)

    def newest(self, note: Callable[[str], None]) -> int:
        """Return the step of the newest intact checkpoint, 0 if there is none; remove and note damaged ones."""
        for leftover in self.folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
        for step in reversed(self._steps()):
            best_step = _best_step(self._step(step))
            if _is_intact(self._step(step)) and (not best_step or _is_intact(self.best(best_step))):
                return step
            note(f"The checkpoint of step {step} is damaged and was passed over.")
            shutil.rmtree(self._step(step))
        return 0

    def load(self, step: int, model: Transformer, optimizers: Sequence[Optimizer]) -> TrainingState:
        """Restore model and optimizer from an intact checkpoint and return the rest of its state."""
        folder = self._step(step)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        restore_state(model, optimizers, load_file(folder / "optimizer.safetensors"))
        state = TrainingState(**json.loads((folder / "state.json").read_text()))
        state.metrics = [StepMetrics(**row) for row in pq.read_table(folder / "metrics.parquet").to_pylist()]
        state.samples = [Sample(**row) for row in pq.read_table(folder / "samples.parquet").to_pylist()]
        return state

    def drop(self, step: int) -> None:
        """Remove the checkpoint of `step`, which turned out to be of no use."""
        shutil.rmtree(self._step(step))

    def best(self, step: int) -> Path:
        """Return the folder of the best weights, found at `step`."""
        return self.folder / f"best-{step:08d}"

    def _step(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def _keep(self, steps: list[int], best_step: int) -> None:
        bests = {best_step, *(_best_step(self._step(step)) for step in steps)}
        kept = {self._step(step) for step in steps} | {self.best(step) for step in bests}
        for path in self.folder.iterdir():
            if path not in kept:
                shutil.rmtree(path)

    @contextmanager
    def _publishing(self, place: Path) -> Iterator[Path]:
        """Yield a folder to fill; sync it and rename it to `place`."""
        temporary = self.folder / f".{place.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        (temporary / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
        sync(self.folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_intact(folder: Path) -> bool:
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        files = [path for path in folder.iterdir() if path.name != _DIGESTS]
        return bool(files) and digests == {path.name: _digest(path) for path in files}
    except (OSError, ValueError):
        return False


def _best_step(folder: Path) -> int:
    try:
        return int(json.loads((folder / "state.json").read_bytes())["best_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
