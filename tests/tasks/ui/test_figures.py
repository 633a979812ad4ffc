"""Figures as people read them, in the terminal and in the UI."""

import io

import pytest
from rich.console import Console

from homegrown.cli.live_display import live_display
from tasks.ui.events import Event, emit
from tasks.ui.figures import figure, news, progress_in_words

TRAINING = {
    "loss": 5.2341,
    "validation_bits_per_byte": 2.34567,
    "tokens_per_second": 12345.6,
    "model_flops_utilisation": 0.4123,
    "skipped_steps": 3,
    "learning_rate": 1e-3,
    "seconds_left": 754.2,
}


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("seconds_to_first_step", 7.25, "7.2 s"),
        ("seconds", 754.2, "12 min 34 s"),
        ("model_flops_utilisation", 0.4123, "41%"),
        ("peak_memory_megabytes", 1234.5, "1,234"),
        ("rolled_back_steps", 1234, "1,234"),
        ("weights", "final", "final"),
    ],
)
def test_a_figure_is_written_as_what_its_name_says(name: str, value: float | str, written: str) -> None:
    assert figure(name, value) == written


@pytest.mark.parametrize(
    ("done", "total", "said"),
    [
        (0, None, (0, "running for 42 s")),
        (1234, None, (0, "1,234")),
        (3000, 12000, (25, "3,000 of 12,000 · 2 min 06 s left")),
        (1.81525, 40, (4.538125, "5% · 14 min 43 s left")),
    ],
)
def test_progress_is_told_in_words(done: float, total: float | None, said: tuple[float, str]) -> None:
    share, words = progress_in_words(Event("any", "progress", done, total), seconds=42)
    assert (share, words) == (pytest.approx(said[0]), said[1])


def test_news_fit_in_a_line() -> None:
    assert news(TRAINING, 4) == "loss 5.234 · bits per byte 2.346 · tokens/s 12,346 · MFU 41%"
    assert news(TRAINING).endswith("· skipped steps 3 · learning rate 0.001")


def test_the_terminal_shows_the_time_left_that_the_stage_says() -> None:
    """By the steps alone it would be seconds: 100 of 200 are done at once."""
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    with live_display(console, ["pretrain"]):
        emit(Event("pretrain", "started"))
        emit(Event("pretrain", "progress", 100, 200, TRAINING))
    assert "0:12:34 loss 5.234" in console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_note_is_a_line_of_its_own(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140, color_system=None)
    with live_display(console, ["pretrain"]):
        emit(Event("pretrain", "started"))
        emit(Event("pretrain", "note", message="Training extends pretrain@1 [bold]."))
    assert "pretrain: Training extends pretrain@1 [bold]." in console.file.getvalue()
