"""Pretraining with real workers: its results, and that it survives kills, several processes and bad settings."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.model import weights
from homegrown.tokenizer.loading import load
from homegrown.training.pretraining import Job, pretrain
from homegrown.training.results import finish
from homegrown.training.run import run_job
from homegrown.training.schedule import lr_share
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome, silent
from tests.training.processes import Broken, Process, worker_in
from tests.training.side_by_side import Leg, run_here
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

SAME_IN_EVERY_RUN = ["step", "tokens", "loss", "learning_rate", "gradient_norm", "validation_loss"]


class Run:
    """A finished run and its progress."""

    def __init__(self, out: Path):
        self.out = out
        self.said: list[tuple[Any, ...]] = []
        self.outcome: Outcome | None = None

    def progress(self, done: float, total: float | None = None, /, **metrics: Any) -> None:
        self.said.append((done, total, metrics))

    @property
    def weights(self) -> bytes:
        return (self.out / "model" / "model.safetensors").read_bytes()

    @property
    def metrics(self) -> dict[str, list[Any]]:
        return pq.read_table(self.out / "metrics.parquet").to_pydict()


@pytest.fixture(scope="module")
def train(corpus: dict[str, Path]) -> Callable[..., Run]:
    def run(out: Path, model: ModelSettings, settings: TrainingSettings, **changes: Any) -> Run:
        made = Run(out)
        given = {"seed": 1, "device": "cpu", "processes": 1, **corpus, **changes}
        made.outcome = pretrain(out, model=model, settings=settings, progress=made.progress, **given)
        return made

    return run


@pytest.fixture(scope="module")
def undisturbed(train, tiny: tuple[ModelSettings, TrainingSettings], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbs."""
    return train(tmp_path_factory.mktemp("undisturbed") / "out", *tiny)


def test_it_leaves_a_model_and_its_records_and_nothing_else(undisturbed: Run) -> None:
    files = {str(path.relative_to(undisturbed.out)) for path in undisturbed.out.rglob("*") if path.is_file()}
    checkpoint = {path for path in files if path.startswith("checkpoints/step-00000024/")}
    events = {path for path in files if path.startswith("tensorboard/events.out.tfevents.")}
    assert len(events) == 1
    assert files - checkpoint - events == {
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "metrics.parquet",
        "samples.parquet",
        "summary.json",
        "curve.png",
    }
    assert (undisturbed.out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in files if str(undisturbed.out).encode() in (undisturbed.out / path).read_bytes()]


def test_metrics_have_every_step_once(undisturbed: Run, tiny: tuple[ModelSettings, TrainingSettings]) -> None:
    metrics, settings = undisturbed.metrics, tiny[1]
    assert metrics["step"] == list(range(1, 25))
    assert metrics["tokens"] == [128 * step for step in metrics["step"]]
    assert metrics["learning_rate"] == [settings.learning_rate * lr_share(step, settings) for step in metrics["step"]]
    validated = [step for step, loss in zip(metrics["step"], metrics["validation_loss"], strict=True) if loss]
    assert validated == [6, 12, 18, 24]
    assert metrics["seconds"] == sorted(metrics["seconds"])


def test_loss_falls(undisturbed: Run) -> None:
    losses = undisturbed.metrics["loss"]
    assert losses[0] == pytest.approx(math.log(512), abs=0.1)
    assert sum(losses[-4:]) / 4 < losses[0] - 0.7


def test_validation_is_that_of_the_saved_model(
    undisturbed: Run, corpus: dict[str, Path], tiny: tuple[ModelSettings, TrainingSettings]
) -> None:
    """Loss by PyTorch's cross-entropy over the same 16 windows; bytes by decoding their text."""
    model, tokenizer = weights.load(undisturbed.out / "model"), load(undisturbed.out / "model")
    split = TokenSplit(corpus["packed"], "validation")
    windows = split.windows(32)
    chosen = split.read(np.linspace(0, windows - 1, 16).round().astype(int), 32)
    inputs, targets = torch.from_numpy(chosen[:, :-1]), torch.from_numpy(chosen[:, 1:])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    text_bytes = sum(len(tokenizer.decode(row.tolist()).encode()) for row in targets)
    assert undisturbed.outcome is not None
    assert undisturbed.outcome.metrics["validation_loss"] == pytest.approx(loss, rel=1e-5)
    bits = loss * targets.numel() / math.log(2) / text_bytes
    assert undisturbed.outcome.metrics["validation_bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_outcome_and_progress_report_the_run(undisturbed: Run, corpus: dict[str, Path]) -> None:
    outcome = undisturbed.outcome
    assert outcome is not None
    assert (outcome.rows_in, outcome.rows_out, outcome.unit) == (
        TokenSplit(corpus["packed"], "train").tokens,
        3072,
        "tokens",
    )
    assert outcome.metrics["parameters"] == sum(p.numel() for p in weights.load(undisturbed.out / "model").parameters())
    assert (outcome.metrics["steps"], outcome.metrics["resumed_from"]) == (24, 0)
    assert outcome.metrics["weights"] == "final, averaged over 20% of the steps"
    assert outcome.metrics["bit_identical"] in ("yes", "no: bfloat16 on AMX")
    figures = outcome.metrics
    assert (figures["skipped_steps"], figures["rolled_back_steps"]) == (0, 0)
    flops = weights.load(undisturbed.out / "model").config.flops_per_token()
    peak = flops * figures["tokens_per_second"] / figures["model_flops_utilisation"]
    assert 1e9 < peak < 1e14
    assert 0 < figures["seconds_to_first_step"] < 300
    assert 100 < figures["peak_memory_megabytes"] < 5000
    last = undisturbed.said[-1]
    assert last[:2] == (24, 24)
    assert list(last[2])[:4] == ["loss", "validation_bits_per_byte", "tokens_per_second", "model_flops_utilisation"]
    assert last[2]["seconds_left"] == 0
    assert [done for done, _, _ in undisturbed.said] == sorted(done for done, _, _ in undisturbed.said)


def test_samples_are_kept_with_their_step(undisturbed: Run) -> None:
    samples = pq.read_table(undisturbed.out / "samples.parquet").to_pylist()
    assert [(row["step"], row["prompt"]) for row in samples] == [(12, "bala"), (12, ""), (24, "bala"), (24, "")]
    assert all(row["text"] for row in samples)


def test_a_finished_run_is_not_repeated(undisturbed: Run, train, tiny: tuple[ModelSettings, TrainingSettings]) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.out.rglob("*") if path.is_file()}
    again = train(undisturbed.out, *tiny)
    assert again.outcome == undisturbed.outcome
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.out.rglob("*") if path.is_file()}


def test_a_run_killed_stopped_and_started_again_ends_with_the_same_bits(
    undisturbed: Run, corpus, tiny, tmp_path: Path
) -> None:
    process = Process(tmp_path / "out", corpus["packed"], corpus["tokenizer"], *tiny)

    # Both are killed when half of the files of the checkpoint of step 10 are there.
    code, _, _ = process.signal_at("metrics.parquet", 2, "both", tmp_path / "first")
    assert code == -signal.SIGKILL
    assert newest_checkpoint(process.out) == 5

    # A signal stops the worker in the step after the samples of step 12; it skips a damaged checkpoint.
    damaged = process.out / "checkpoints" / "step-00000007"
    damaged.mkdir()
    (damaged / "state.json").write_text("{}")
    run = Run(process.out)
    message = r"^A signal stopped training after step 13; run it again to resume there\.$"
    with pytest.raises(UserError, match=message):
        process.signal_worker_at(
            "out/samples.parquet", 2, tmp_path / "second", number=signal.SIGTERM, progress=run.progress
        )
    assert run.said[0][2]["note"] == "The checkpoint of step 7 is damaged and was skipped."
    assert not is_alive(worker_in(tmp_path / "second"))
    assert newest_checkpoint(process.out) == 13

    # The worker is killed when training is over and the results are half written; it is started again.
    assert not (process.out / "summary.json").exists()
    process.signal_worker_at("model/model.safetensors", 1, tmp_path / "third")
    assert not is_alive(worker_in(tmp_path / "third"))
    assert json.loads((process.out / "summary.json").read_text())["resumed_from"] == 24
    assert_same_but_for_time(Run(process.out), undisturbed)


def newest_checkpoint(out: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))


def assert_same_but_for_time(run: Run, other: Run) -> None:
    assert run.weights == other.weights
    for column in SAME_IN_EVERY_RUN:
        assert run.metrics[column] == other.metrics[column]
    samples = [pq.read_table(each.out / "samples.parquet") for each in (run, other)]
    assert samples[0].equals(samples[1])
    shown = EventAccumulator(str(run.out / "tensorboard"), {"scalars": 0}).Reload().Scalars("loss/training")
    assert [point.step for point in shown] == list(range(1, 25))
    assert [point.value for point in shown] == pytest.approx(other.metrics["loss"])


def endless(settings: TrainingSettings) -> TrainingSettings:
    """Settings with which only a signal ends training, and only at that end a checkpoint is written."""
    changes = {
        "max_steps": 10_000_000,
        "validate_every": 2,
        "patience": None,
        "checkpoint_every": 10_000_000,
        "sample_every": 2,
        "compile": "never",
    }
    return settings.model_copy(update=changes)


def test_workers_exit_when_the_launching_process_is_killed(corpus, tiny, tmp_path: Path) -> None:
    """They finish their step and write a checkpoint first."""
    process = Process(tmp_path / "out", corpus["packed"], corpus["tokenizer"], tiny[0], endless(tiny[1]))
    _, worker, _ = process.signal_at("out/samples.parquet", 6, "parent", tmp_path / "killer")
    killed_at = 10
    wait_for(lambda: not is_alive(worker))
    assert newest_checkpoint(process.out) > killed_at


def test_a_stopped_process_leaves_a_checkpoint_of_its_last_step(corpus, tiny, tmp_path: Path) -> None:
    """Prefect's cancelling sends SIGTERM to the launching process, which waits for its worker."""
    process = Process(tmp_path / "out", corpus["packed"], corpus["tokenizer"], tiny[0], endless(tiny[1]))
    code, worker, said = process.signal_at(
        "out/samples.parquet", 6, "parent", tmp_path / "killer", number=signal.SIGTERM
    )
    assert (code, said) == (3, "")
    assert not is_alive(worker)
    assert not (process.out / "summary.json").exists()
    assert newest_checkpoint(process.out) > 10


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # an orphan that nobody has waited for is dead
    except psutil.NoSuchProcess:
        return False


def test_two_workers_of_which_one_is_killed_train_as_one_does(undisturbed: Run, corpus, tiny, tmp_path: Path) -> None:
    """The second dies while a checkpoint is written; the same batch, one micro-batch for each; dropout is on."""
    process = Process(tmp_path / "out", corpus["packed"], corpus["tokenizer"], *tiny, processes=2)
    process.signal_worker_at("checkpoints/.step-00000010.tmp", 1, tmp_path / "killer", rank=1)
    assert not is_alive(worker_in(tmp_path / "killer"))
    assert json.loads((process.out / "summary.json").read_text())["resumed_from"] == 5
    shared = Run(process.out)
    assert shared.metrics["step"] == undisturbed.metrics["step"]
    for column in ("loss", "gradient_norm"):
        assert shared.metrics[column] == pytest.approx(undisturbed.metrics[column], rel=1e-3)
    validations = [[loss for loss in run.metrics["validation_loss"] if loss] for run in (shared, undisturbed)]
    assert validations[0] == pytest.approx(validations[1], rel=1e-3)


def test_early_stopping_keeps_the_best_weights(alone: None, corpus, tiny, tmp_path: Path) -> None:
    """A rising learning rate soon undoes what the first steps learnt."""
    model, settings = tiny
    changes = {"learning_rate": 3.0, "warmup_steps": 20, "validate_every": 1, "patience": 2, "sample_prompts": []}
    job = Job(**corpus, model=model, training=settings.model_copy(update=changes), seed=1, device="cpu")
    run = Run(tmp_path / "out")
    (trainer,) = run_here([Leg(str(run.out))], job)
    finish(trainer, run.out, 0)
    losses = run.metrics["validation_loss"]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < settings.max_steps
    summary = json.loads((run.out / "summary.json").read_text())
    assert summary["weights"] == f"best validation, step {best}, averaged over 20% of the steps"
    assert summary["validation_loss"] == min(losses)


def test_a_workers_refusal_is_the_error_message(corpus, tiny, tmp_path: Path) -> None:
    job = Job(**corpus, model=tiny[0], training=tiny[1], seed=Broken.REFUSED, device="cpu")
    with pytest.raises(UserError, match=f"^{Broken.MESSAGE}$"):
        run_job(job, tmp_path, 1, silent, worker=Broken.__module__)


def test_another_failure_names_the_log(corpus, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homegrown.training.launcher._RESTARTS", 0)
    job = Job(**corpus, model=tiny[0], training=tiny[1], seed=1, device="cpu")
    with pytest.raises(RuntimeError, match=r"stderr\.log") as failure:
        run_job(job, tmp_path, 1, silent, worker=Broken.__module__)
    log = Path(str(failure.value).split("; see ")[1])
    assert Broken.MESSAGE in log.read_text()
    assert json.loads((tmp_path / "job.json").read_text())["seed"] == 1
