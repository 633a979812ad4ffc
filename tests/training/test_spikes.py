"""Spikes and losses that are not finite: skipped and rolled back by rule, counted, and the same after a resume."""

import json
import math
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from homegrown.config.training import TrainingSettings
from homegrown.training.callbacks import standard
from homegrown.training.next_token import NextToken
from homegrown.training.pretraining import Job
from homegrown.training.progress_file import Report
from homegrown.training.spikes import SpikeRule
from homegrown.training.stopping import Stop
from homegrown.training.trainer import Trainer
from homegrown.util.errors import UserError


@pytest.fixture(scope="session")
def rule(training_settings: TrainingSettings) -> Callable[..., SpikeRule]:
    return lambda **changes: SpikeRule(training_settings.model_copy(update=changes))


def feed(rule: SpikeRule, steps: int, loss: float = 4.0, norm: float = 1.0, seed: int = 0) -> None:
    """Ordinary steps: noise of a fiftieth around both."""
    random = np.random.default_rng(seed)
    for one, other in random.normal(size=(steps, 2)):
        assert rule.admits(loss * (1 + one / 50), norm * (1 + other / 50))


# --- the rule ---------------------------------------------------------------------------------------------------------


def plain(values: list[tuple[float, float]], deviations: float | None) -> list[bool]:
    """Say of each (loss, norm) whether its update is taken; written from the rule's description alone."""
    losses: list[float] = []
    norms: list[float] = []
    decisions: list[bool] = []
    threshold, unusual = 1.0, False
    for loss, norm in values:
        windows = (losses[-128:], norms[-128:])
        bounds = [
            statistics.fmean(window) + threshold * deviations * statistics.stdev(window)
            if deviations is not None and len(window) >= 64
            else math.inf
            for window in windows
        ]
        numbers = math.isfinite(loss) and math.isfinite(norm)
        taken = numbers and not loss > bounds[0] and not norm > bounds[1]
        if taken:
            losses.append(loss)
            threshold *= 2 if unusual else 1
        unusual = not taken and (unusual or numbers)
        if math.isfinite(norm):
            norms.append(min(norm, 2 * bounds[1] - statistics.fmean(norms[-128:])) if norms else norm)
        decisions.append(taken)
    return decisions


odd = st.sampled_from([math.nan, math.inf, 1.0, 1.13, 1.3, 5.0, 1e30])


@given(
    seed=st.integers(0, 2**32),
    changed=st.dictionaries(st.integers(0, 219), st.tuples(odd, odd), max_size=40),
    deviations=st.sampled_from([None, 3.0, 6.0]),
)
@hypothesis_settings(max_examples=15, deadline=None)
def test_it_decides_as_its_description_says(
    rule, seed: int, changed: dict[int, tuple[float, float]], deviations: float | None
) -> None:
    """Falling losses and steady norms, with some of both multiplied."""
    random = np.random.default_rng(seed)
    values = []
    for step in range(220):
        loss, norm = 8 * (1 + step / 10) ** -0.2 + 0.05 * random.normal(), 1 + 0.05 * random.normal()
        factors = changed.get(step, (1.0, 1.0))
        values.append((float(loss * factors[0]), float(norm * factors[1])))
    ours = rule(spike_deviations=deviations)
    assert [ours.admits(*value) for value in values] == plain(values, deviations)
    assert ours.skipped_steps == plain(values, deviations).count(False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_skipped_from_the_first_step_and_enter_no_mean(rule, value: float) -> None:
    ours = rule(spike_deviations=None)
    assert not ours.admits(value, 1.0)
    assert not ours.admits(4.0, value)
    feed(ours, 200)
    assert ours.skipped_steps == 2


def test_a_loss_that_stays_high_remains_a_spike_until_training_goes_back(rule) -> None:
    ours = rule(rollback_after=8)
    feed(ours, 200)
    for step in range(8):
        assert not ours.must_roll_back
        assert not ours.admits(5.0, 1.0), step
    assert ours.must_roll_back
    assert not ours.calm


@pytest.mark.parametrize("every", [40, 300])
def test_rare_examples_are_trained_on_after_some_skips(rule, every: int) -> None:
    """A loss of six times the usual one, as two conversations of 584 had, which a fixed threshold skips each time."""
    ours, taken = rule(), []
    for step in range(1, 12 * every):
        loss = 15.9 if step % every == 0 and step > 100 else 2.5 + 0.3 * math.sin(step)
        admitted = ours.admits(loss, 1.0 + 0.1 * math.cos(step))
        if loss > 10:
            taken.append(admitted)
    assert taken == sorted(taken)
    assert not taken[0]
    assert all(taken[4:])


def test_gradients_of_twice_the_size_are_soon_the_usual_ones(rule) -> None:
    ours = rule(rollback_after=8)
    feed(ours, 200)
    decisions = [ours.admits(4.0, 2.0) for _ in range(8)]
    assert decisions == sorted(decisions)
    assert (decisions[0], decisions[-1]) == (False, True)


def test_one_huge_norm_does_not_hide_the_next(rule) -> None:
    ours = rule()
    feed(ours, 200)
    assert not ours.admits(4.0, 1e30)
    feed(ours, 20, seed=1)
    assert not ours.admits(4.0, 3.0)


def test_its_state_passes_through_json(rule) -> None:
    ours = rule()
    feed(ours, 100)
    ours.admits(math.nan, 1.0)
    again = rule()
    again.load_state_dict(json.loads(json.dumps(ours.state_dict())))
    assert again.state_dict() == ours.state_dict()
    values = np.random.default_rng(3).normal(size=(200, 2)) * 0.4 + (4, 1)
    assert [ours.admits(*value) for value in values.tolist()] == [again.admits(*value) for value in values.tolist()]


def test_going_back_keeps_the_counts_and_the_earlier_memory(rule) -> None:
    ours = rule(rollback_after=2, max_rollbacks=1)
    feed(ours, 100)
    earlier = ours.state_dict()
    ours.admits(math.nan, 1.0), ours.admits(math.nan, 1.0)
    ours.roll_back(at=102, to=100, earlier=earlier)
    counts = {"skipped_steps": 2, "rolled_back_steps": 2, "rollbacks": 1, "rolled_back_from": 102}
    assert ours.state_dict() == earlier | counts
    with pytest.raises(
        UserError, match=r"training.max_rollbacks \(1\) .* step 104; lower training.learning_rate \(0.005\)"
    ):
        ours.roll_back(at=104, to=100, earlier=earlier)


# --- in the loop ------------------------------------------------------------------------------------------------------

ALONE = {
    "rank": 0,
    "count": 1,
    "kind": "cpu",
    "device": torch.device("cpu"),
    "leads": True,
    "sums": torch.float64,
    "sum": lambda values: values,
    "agree": lambda value: value,
}


class Killed(Exception):
    """Raised where a kill would be."""


class StopAt(Stop):
    """Requests a stop after a step."""

    def __init__(self, trainer: Trainer, step: int | None):
        super().__init__()
        self._trainer, self._step = trainer, step

    @property
    def requested(self) -> bool:
        return self._trainer.state.step == self._step


@pytest.fixture
def train(alone: None, corpus, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Train in this process, with some batches poisoned: their loss is not a number."""
    monkeypatch.setattr("homegrown.training.trainer.matmul_peak", lambda *_: 1e11)

    def run(
        name: str,
        poisoned: Iterable[int] = (),
        kill_at: int | None = None,
        stop_at: int | None = None,
        order: Callable[[int], int] = lambda number: number,
        **changes: Any,
    ) -> Trainer:
        model, settings = tiny
        changes = {"validate_every": 24, "sample_every": 24, "rollback_after": 3, **changes}
        job = Job(**corpus, model=model, training=settings.model_copy(update=changes), seed=1, device="cpu")
        (tmp_path / name).mkdir(exist_ok=True)
        report = Report(tmp_path / name / "progress.jsonl")
        worker = SimpleNamespace(**ALONE, writers=dist.group.WORLD)
        trainer = Trainer(job, tmp_path / name, worker, report, standard())
        read = trainer.batches.batch
        monkeypatch.setattr(trainer.batches, "batch", lambda number: read(order(number)))
        bad = [torch.from_numpy(read(number)[:2]) for number in poisoned]

        def forward(self: NextToken, windows: Tensor) -> Tensor:
            loss = self.model.loss(windows[:, :-1], windows[:, 1:])
            return loss * math.nan if any(torch.equal(windows, one) for one in bad) else loss

        monkeypatch.setattr(NextToken, "forward", forward)
        step = trainer._step

        def watched(windows: Tensor, *others: Any) -> None:
            if trainer.state.step + 1 == kill_at and trainer.spikes.rollbacks:
                trainer.checkpoints.settle(trainer.state)
                raise Killed
            before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
            step(windows, *others)
            same = all(torch.equal(tensor, before[key]) for key, tensor in trainer.model.state_dict().items())
            row = trainer.state.metrics[-1]
            assert same == (row.skipped or not math.isfinite(row.gradient_norm))

        monkeypatch.setattr(trainer, "_step", watched)
        trainer.resumed_from = trainer.start()
        trainer.run(StopAt(trainer, stop_at))
        return trainer

    return run


def weights(trainer: Trainer) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in trainer.model.state_dict().values())


def test_a_poisoned_batch_is_skipped_and_counted(train) -> None:
    trainer = train("out", poisoned=[6])
    assert [row.step for row in trainer.state.metrics] == list(range(1, 25))
    assert [row.step for row in trainer.state.metrics if row.skipped] == [7]
    assert math.isnan(trainer.state.metrics[6].loss)
    assert trainer.spikes.state_dict()["skipped_steps"] == 1
    assert trainer.spikes.rolled_back_steps == 0
    assert all(math.isfinite(row.loss) for row in trainer.state.metrics if not row.skipped)


def test_too_many_in_a_row_lead_back_to_a_checkpoint_and_past_their_batches(train, tmp_path: Path) -> None:
    """Checkpoints are at every fifth step; batches 10 to 12 are poisoned, so steps 11 to 13 are taken back."""
    trainer = train("out", poisoned=[10, 11, 12])
    reference = train("reference", order=lambda number: number if number < 10 else number + 3)
    assert weights(trainer) == weights(reference)
    assert [row.loss for row in trainer.state.metrics] == [row.loss for row in reference.state.metrics]
    assert (trainer.spikes.skipped_steps, trainer.spikes.rolled_back_steps, trainer.spikes.rollbacks) == (3, 3, 1)
    said = (tmp_path / "out" / "progress.jsonl").read_text()
    assert "rolled back from step 13 to step 10 and skips the batches" in said
    assert [row.seconds for row in trainer.state.metrics] == sorted(row.seconds for row in trainer.state.metrics)


@pytest.mark.parametrize(
    ("interrupted", "resumed_from"),
    [
        ({"kill_at": 12}, 10),  # before the next checkpoint, which knows that batches were passed over
        ({"kill_at": 18}, 15),  # after it
        ({"stop_at": 12}, 10),  # between the updates that are skipped: no checkpoint there
    ],
)
def test_a_run_interrupted_around_a_rollback_ends_with_the_same_bits(
    train, interrupted: dict[str, int], resumed_from: int
) -> None:
    undisturbed = train("undisturbed", poisoned=[10, 11, 12])
    with pytest.raises(Killed) if "kill_at" in interrupted else nullcontext():
        train("out", poisoned=[10, 11, 12], **interrupted)
    resumed = train("out", poisoned=[10, 11, 12])
    assert resumed.resumed_from == resumed_from
    assert weights(resumed) == weights(undisturbed)
    assert resumed.spikes.state_dict() == undisturbed.spikes.state_dict()


def test_a_second_rollback_without_an_update_uses_the_previous_checkpoint(train) -> None:
    """Back from 13 to 10 twice, the second time without one update between: so from 13 to 5, and 8 batches more."""
    trainer = train("out", poisoned=range(10, 16))
    reference = train("reference", order=lambda number: number if number < 5 else number + 11)
    assert weights(trainer) == weights(reference)
    assert (trainer.spikes.skipped_steps, trainer.spikes.rolled_back_steps, trainer.spikes.rollbacks) == (6, 11, 2)


def test_divergence_before_the_first_checkpoint_is_an_error_message(train) -> None:
    with pytest.raises(UserError, match=r"before a checkpoint: .* the 3 steps up to step 3; lower") as refusal:
        train("out", poisoned=range(10))
    assert "\n" not in str(refusal.value)


def test_a_run_that_ends_with_nan_fails_and_fails_again_when_resumed(train, tmp_path: Path) -> None:
    """A learning rate of 1e5: training loss and gradients are finite until the weights are not."""
    changes = {"learning_rate": 1e5, "matrix_learning_rate": 1e5, "warmup_steps": 0, "max_steps": 5}
    changes |= {"final_learning_rate_share": 1.0, "validate_every": 1, "rollback_after": 8, "patience": 3}
    for _ in range(2):
        with pytest.raises(UserError, match=r"validation loss of step [45] is not finite; lower training"):
            train("out", **changes)
    state = json.loads(next((tmp_path / "out" / "checkpoints").glob("step-*/state.json")).read_text())
    assert math.isfinite(state["best_loss"] or 0.0)


def test_the_scalers_search_for_a_scale_is_no_spike(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first float16 gradients overflow, more of them in a row than would make training go back."""
    monkeypatch.setattr("torch.amp.GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**40))
    trainer = train("out", precision="fp16", poisoned=[20])
    overflown = [row.step for row in trainer.state.metrics if not math.isfinite(row.gradient_norm)]
    assert overflown[-1] == 21
    assert overflown[:-1] == list(range(1, len(overflown)))
    assert len(overflown) > 4
    assert [row.step for row in trainer.state.metrics if row.skipped] == [21]
    assert trainer.spikes.skipped_steps == 1
