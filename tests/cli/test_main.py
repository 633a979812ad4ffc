"""The command line starts at once: nothing heavy is imported before it is needed."""

import subprocess
import sys

import pytest

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
