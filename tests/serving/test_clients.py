"""Clients of others, each installed in an environment of its own, with their own calls for schemas and tools."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import LLAMA, OWN, Served

CLIENTS = Path(__file__).with_name("clients")
PYTHON = ("openai", "langchain-openai", "pydantic-ai-slim[openai]", "instructor")
NODE = ("openai", "ai", "@ai-sdk/openai-compatible", "zod")


@pytest.mark.minutes  # installs packages
def test_python_clients(served_long: Served, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PYTHON], check=True)
    for name in (OWN, LLAMA):
        found = subprocess.run(
            [python, CLIENTS / "python_clients.py", served_long.url, name], check=True, capture_output=True, text=True
        )
        assert found.stdout.split("\n")[:-1] == ["openai ok", "langchain ok", "pydantic_ai ok", "with_instructor ok"]


@pytest.mark.minutes  # installs packages
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_node_clients(served_long: Served, tmp_path: Path) -> None:
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *NODE], cwd=tmp_path, check=True)
    program = shutil.copy(CLIENTS / "node_clients.mjs", tmp_path)
    for name in (OWN, LLAMA):
        found = subprocess.run(
            ["node", program, served_long.url, name], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert found.stdout == "openai ok\nai ok\n"
