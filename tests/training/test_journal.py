"""The files to watch a run by, read with programs that are not ours: TensorBoard and DuckDB."""

import math
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from homegrown.training.journal import Journal, read_steps
from homegrown.training.metrics import Sample, StepMetrics
from homegrown.training.tensorboard import EventFile


def row(step: int, loss: float = 2.5) -> StepMetrics:
    validation = (2.25, 1.125) if step % 4 == 0 else (None, None)
    return StepMetrics(step, 64 * step, loss, 1e-3, 0.5, 1e4, 0.4, 2**29, math.isnan(loss), 0.5 * step, *validation)


def written(step: int) -> list[Sample]:
    return [Sample(step, "one", f" of {step}"), Sample(step, "", f"`two` of {step}")]


@pytest.fixture
def interrupted(tmp_path: Path) -> list[StepMetrics]:
    """Steps 1 to 7, then killed with half a line written, then resumed from a checkpoint of step 5 to step 9."""
    rows = [row(step, math.nan if step == 3 else 8 / step) for step in range(1, 10)]
    for before, after in ((rows[:0], rows[:7]), (rows[:5], rows[5:])):
        samples = written(4) if before else []
        for file in (Journal(tmp_path, before, samples), EventFile(tmp_path / "tensorboard", before, samples)):
            for step in after:
                file.add(step, written(step.step) if step.step in (4, 8) else [])
            file.close()
        if not before:
            with (tmp_path / "steps.jsonl").open("a") as lines:
                lines.write('{"step": 8, "tok')
    return rows


def test_tensorboard_shows_every_step_once(interrupted: list[StepMetrics], tmp_path: Path) -> None:
    shown = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0, "tensors": 0}).Reload()
    losses = shown.Scalars("loss/training")
    assert [point.step for point in losses] == [1, 2, 4, 5, 6, 7, 8, 9]
    assert [point.value for point in losses] == pytest.approx([8 / point.step for point in losses])
    assert [point.wall_time - losses[0].wall_time for point in losses] == pytest.approx(
        [0.5 * point.step - 0.5 for point in losses]
    )
    assert [(point.step, point.value) for point in shown.Scalars("loss/validation_bits_per_byte")] == [
        (4, 1.125),
        (8, 1.125),
    ]
    assert [point.value for point in shown.Scalars("optimizer/skipped")] == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert set(shown.Tags()["scalars"]) == {
        "loss/training",
        "loss/validation",
        "loss/validation_bits_per_byte",
        "optimizer/learning_rate",
        "optimizer/gradient_norm",
        "optimizer/skipped",
        "speed/tokens_per_second",
        "speed/model_flops_utilisation",
        "memory/peak_bytes",
    }
    texts = [
        (point.step, point.tensor_proto.string_val[0].decode()) for point in shown.Tensors("samples/2/text_summary")
    ]
    assert texts == [(4, "````\n`two` of 4\n````"), (8, "````\n`two` of 8\n````")]


def test_the_files_themselves_hold_no_step_twice(interrupted: list[StepMetrics], tmp_path: Path) -> None:
    """For readers that do not know TensorBoard's rules about restarts; nor the machine's name."""
    files = list((tmp_path / "tensorboard").iterdir())
    events = [Event.FromString(raw) for file in files for raw in RawEventFileLoader(str(file)).Load()]
    assert [event.step for event in events] == [0, *range(1, 10)]
    assert [file.name.rstrip("0123456789") for file in files] == ["events.out.tfevents."]


def test_the_lines_are_read_by_duckdb_and_by_ourselves(interrupted: list[StepMetrics], tmp_path: Path) -> None:
    lines = duckdb.sql(f"SELECT step, loss, skipped FROM '{tmp_path}/steps.jsonl' ORDER BY step").fetchall()
    assert [line[0] for line in lines] == list(range(1, 10))
    assert lines[1:3] == [(2, 4.0, False), (3, None, True)]
    ours = read_steps(tmp_path)
    assert math.isnan(ours[2].loss)
    assert [one for one in ours if one.step != 3] == [one for one in interrupted if one.step != 3]


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    assert read_steps(tmp_path) == []
    journal = Journal(tmp_path, [], [])
    journal.add(row(1), [])
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 2, "tok')
    assert read_steps(tmp_path) == [row(1)]


def test_samples_are_there_while_training_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, [row(1)], written(1))
    journal.add(row(2), written(2))
    samples = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [(one["step"], one["prompt"]) for one in samples] == [(1, "one"), (1, ""), (2, "one"), (2, "")]
