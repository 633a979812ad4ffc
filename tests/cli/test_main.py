"""The command line starts at once: nothing heavy is imported before it is needed. Its display fits the terminal."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from homegrown.cli.live_display import live_display
from tasks.ui.events import Event, emit

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "pyarrow", "duckdb", "numba", "pandas")
HELP = "from homegrown.cli.main import cli; cli(['--help'], standalone_mode=False)"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (HELP, (*HEAVY, "prefect", "pydantic", "numpy")),
        ("import flows.pretrain", HEAVY),
        ("import homegrown.corpus.sources", HEAVY),  # asked in every run what identifies the raw text
    ],
)
def test_what_is_not_imported(code: str, heavy: tuple[str, ...]) -> None:
    code = f"{code}\nimport sys\nassert not (found := {set(heavy)!r} & set(sys.modules)), found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("width", "last"), [(80, "bits per byte"), (120, "MFU 8%")])
def test_a_narrow_terminal_shortens_figures_and_never_the_time_left(width: int, last: str) -> None:
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    figures = {"loss": 5.726, "validation_bits_per_byte": 2.123, "tokens_per_second": 3109.0}
    with live_display(console, ["pretrain"]):
        emit(Event("pretrain", "started"))
        metrics = figures | {"model_flops_utilisation": 0.08, "seconds_left": 3700.0}
        emit(Event("pretrain", "progress", 30, 100, metrics))
    assert isinstance(console.file, io.StringIO)
    line = next(line for line in reversed(console.file.getvalue().splitlines()) if "30%" in line)
    assert "1:01:40 loss 5.726" in line
    assert last in line
