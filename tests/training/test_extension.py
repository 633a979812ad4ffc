"""Extending a finished run: the same weights as from step 1, or a message why it starts there."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.training import extension
from homegrown.training.checkpoints import steps_in
from homegrown.training.pretraining import choices, pretrain
from homegrown.training.schedule import common_steps, lr_share, stable_steps
from homegrown.util.progress import Outcome
from tests.training.side_by_side import launched_here

WSD = {"schedule": "wsd", "max_steps": 18, "decay_steps": 6, "initialisation": "heads", "keep_checkpoints": 3}


@dataclass
class Runs:
    """The trainings of a store; an order of its own for each, as the stage makes it."""

    store: Store
    corpus: dict[str, Path]
    model: ModelSettings
    training: TrainingSettings
    notes: list[str] = field(default_factory=list)

    def order(self, code: str = "code", **changes: Any) -> Order:
        training = self.training.model_copy(update=WSD | changes)
        settings = {
            "settings": training.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "seed": 1,
        }
        return Order("pretrain", code, settings, {"pack": "a" * 64}, {"settings": training.unkeyed()})

    def extend(self, order: Order, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        packed = self.corpus["packed"]
        self.notes.clear()
        extension.extend(
            self.store, order, out, lambda training: choices(training, self.model, packed, "cpu"), self.notes.append
        )

    def train(self, extending: bool = True, **changes: Any) -> Artifact:
        order = self.order(**changes)

        def build(out: Path) -> Outcome:
            if extending:
                self.extend(order, out)
            settings = TrainingSettings.model_validate(order.settings["settings"])
            return pretrain(out, model=self.model, settings=settings, seed=1, device="cpu", processes=1, **self.corpus)

        artifact, made = self.store.make(order, self.store.slot("pretrain", order.key), build)
        assert made
        return artifact


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with launched_here():
        yield


@pytest.fixture(scope="module")
def new(
    corpus: dict[str, Path],
    model_settings: ModelSettings,
    training_settings: TrainingSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], Runs]:
    def make() -> Runs:
        return Runs(Store(tmp_path_factory.mktemp("store")), corpus, model_settings, training_settings)

    return make


@pytest.fixture(scope="module")
def first(new: Callable[[], Runs]) -> Runs:
    runs = new()
    artifact = runs.train()
    assert steps_in(artifact.path / "checkpoints") == [10, 12, 18]
    files = (artifact.path / "checkpoints").rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file())
    assert artifact.manifest.metrics["checkpoint_megabytes"] == size / 1e6
    return runs


@pytest.fixture
def finished(first: Runs, tmp_path: Path) -> Runs:
    """18 steps with the checkpoints of 10 and 12, the last before the decay, and of 18; a store for each test."""
    shutil.copytree(first.store.root, tmp_path / "store")
    return replace(first, store=Store(tmp_path / "store"), notes=[])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"max_steps": 24}, 12),
        ({"max_steps": 14, "decay_steps": 4}, 10),
        ({"max_steps": 20, "decay_steps": None, "decay_share": 0.5, "checkpoint_every": 100, "validate_every": 4}, 10),
    ],
)
def test_the_weights_are_those_of_a_run_from_step_1(
    finished: Runs, new: Callable[[], Runs], changes: dict[str, Any], step: int
) -> None:
    extended, whole = finished.train(**changes), new().train(extending=False, **changes)
    assert finished.notes == [f"Training extends pretrain@1 and continues after its step {step}."]
    for artifact in (extended, whole):
        assert artifact.manifest.key == finished.order(**changes).key
        assert artifact.manifest.metrics["steps"] == changes["max_steps"]
    weights = [(one.path / "model" / "model.safetensors").read_bytes() for one in (extended, whole)]
    assert weights[0] == weights[1]
    columns = ["step", "tokens", "loss", "learning_rate", "gradient_norm"]
    metrics = [pq.read_table(one.path / "metrics.parquet", columns=columns) for one in (extended, whole)]
    assert metrics[0] == metrics[1]
    source = finished.store.resolve("pretrain@1").path.name
    assert extended.manifest.metrics["extended_from"] == f"pretrain/{source}"
    assert extended.manifest.metrics["resumed_from"] == step
    assert "extended_from" not in whole.manifest.metrics
    assert "extended.txt" not in {path.name for path in extended.path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_steps": 24, "code": "other"},
            "the code has changed; continue from its weights with `homegrown adapt pre",
        ),
        ({"max_steps": 14}, r"no checkpoint of the 8 steps in common; .* training.keep_checkpoints \(its: 3\)"),
        (
            {"max_steps": 24, "initialisation": "random"},
            "initialisation was heads there and is random here; set it to h",
        ),
        (
            {"max_steps": 24, "compile": "always"},
            "training.compile was never there and is always here; set it to never",
        ),
    ],
)
def test_it_says_why_it_starts_from_step_1(
    finished: Runs, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    finished.extend(finished.order(**changes), tmp_path / "out")
    (note,) = finished.notes
    assert note.startswith("pretrain@1 is not extended, training starts from step 1: ")
    assert re.search(message, note)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_another_training_is_not_mentioned(finished: Runs, tmp_path: Path) -> None:
    for changes in ({"batch_size": 8}, {"learning_rate": 1e-3}, {"schedule": "cosine", "max_steps": 24}, {}):
        finished.extend(finished.order(**changes), tmp_path / "out")
        assert not finished.notes
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_resumed_run_keeps_its_own_later_checkpoint(finished: Runs, tmp_path: Path) -> None:
    own = tmp_path / "out" / "checkpoints" / "step-00000013"
    own.mkdir(parents=True)
    finished.extend(finished.order(max_steps=24), tmp_path / "out")
    assert not finished.notes
    own.rename(own.with_name("step-00000004"))
    finished.extend(finished.order(max_steps=24), tmp_path / "out")
    assert steps_in(tmp_path / "out" / "checkpoints") == [4, 12]
    assert finished.notes


@pytest.mark.slow
def test_nothing_is_copied_of_a_damaged_run(finished: Runs, tmp_path: Path) -> None:
    (finished.store.resolve("pretrain").path / "curve.png").unlink()
    finished.extend(finished.order(max_steps=24), tmp_path / "out")
    assert "one of its files is damaged" in finished.notes[0]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_what_a_later_step_has_changed_by_a_rollback_is_not_extended(finished: Runs) -> None:
    """A run with more steps would not have rolled back from a step of this one's decay."""
    path = finished.store.resolve("pretrain").path / "checkpoints" / "step-00000012" / "state.json"
    state = path.read_text()
    for rolled_back_from, step in ((11, 12), (12, 12), (13, 10)):
        path.write_text(state.replace('"rolled_back_from": 0', f'"rolled_back_from": {rolled_back_from}'))
        assert extension.last_checkpoint(path.parent.parent, common=12) == step


@pytest.mark.slow
def test_other_schedules_cannot_be_extended(new: Callable[[], Runs], tmp_path: Path) -> None:
    runs = new()
    runs.train(schedule="cosine")
    runs.extend(runs.order(schedule="cosine", max_steps=24), tmp_path)
    assert runs.notes == [
        "pretrain@1 is not extended, training starts from step 1: with training.schedule cosine, every learning rate "
        "depends on max_steps; extend runs of the schedule wsd, or continue from its weights with "
        "`homegrown adapt pretrain@1`."
    ]


def test_steps_in_common(training_settings: TrainingSettings) -> None:
    def settings(**changes: Any) -> TrainingSettings:
        return training_settings.model_copy(update=WSD | changes)

    for steps in (18, 24, 25):
        one = settings(max_steps=steps)
        shares = [lr_share(step, one) for step in range(1, steps + 1)]
        assert shares.index(1.0) + 1 == one.warmup_steps
        assert len(shares) - shares[::-1].index(1.0) == stable_steps(one) == steps - 6
    assert common_steps(settings(), settings(max_steps=24)) == 12
    assert common_steps(settings(), settings(max_steps=30, final_learning_rate_share=0)) == 12
    assert common_steps(settings(), settings(warmup_steps=5)) == 0
    assert common_steps(settings(schedule="linear"), settings(schedule="linear", max_steps=24)) == 4
    assert common_steps(settings(), settings()) == 18
