"""The layers of the layout: import-linter's contracts hold, and a planted violation of each breaks one of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.path.insert(0, '.'); lint_imports_command()"

PLANTED = {
    "homegrown/util/seeds.py": ("import homegrown.model.config", "Imports run downwards BROKEN"),
    "homegrown/data/index.py": ("import homegrown.export.opt", "Imports run downwards BROKEN"),
    "homegrown/model/loss.py": ("import flows.pretrain", "Imports run downwards BROKEN"),
    "homegrown/corpus/text.py": ("import prefect", "The engine never imports Prefect BROKEN"),
    "homegrown/training/muon.py": ("import homegrown.training.optimizer", "in a circle BROKEN"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for package in ("homegrown", "tasks", "flows"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", LINT, "--no-cache"], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_imports_run_downwards(copy: Path) -> None:
    code, output = lint(copy)
    assert code == 0, output


@pytest.mark.parametrize("file", PLANTED)
def test_a_planted_violation_is_found(copy: Path, file: str) -> None:
    line, broken = PLANTED[file]
    original = (copy / file).read_text(encoding="utf-8")
    (copy / file).write_text(f"{original}\n{line}\n", encoding="utf-8")
    try:
        code, output = lint(copy)
    finally:
        (copy / file).write_text(original, encoding="utf-8")
    assert code != 0 and broken in output
