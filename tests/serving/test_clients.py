"""Clients of others, each installed in an environment of its own, with their own calls for schemas and tools."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.serving.conftest import LLAMA, OWN, Served

CLIENTS = Path(__file__).with_name("clients")
NODE = ("openai", "ai", "@ai-sdk/openai-compatible", "zod")

STUCK = 600
"""Seconds without a line of output after which an installation is stuck; a slow one can take any time."""

pytestmark = [pytest.mark.minutes, pytest.mark.timeout(0)]  # installs packages


def install(command: Sequence[str | Path], folder: Path) -> None:
    """Run the command of an installation, unless it is stuck."""
    log = folder / "install.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    size, changed = 0, time.monotonic()
    while process.poll() is None and time.monotonic() - changed < STUCK:
        time.sleep(0.5)
        if log.stat().st_size > size:
            size, changed = log.stat().st_size, time.monotonic()
    process.kill()
    assert process.wait() == 0, log.read_text()[-2000:]


# An environment each: in a common one, the requirements of some exclude today's versions of others.
@pytest.mark.parametrize(
    ("client", "extra"),
    [("openai", ""), ("langchain-openai", ""), ("pydantic-ai-slim", "[openai]"), ("instructor", "")],
)
def test_python_clients(served_long: Served, tmp_path: Path, client: str, extra: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--verbose", "install", "--no-compile"]
    install([*pip, "--only-binary", ":all:", client + extra], tmp_path)
    for name in (OWN, LLAMA):
        asked = [python, CLIENTS / "python_clients.py", client, served_long.url, name]
        found = subprocess.run(asked, capture_output=True, text=True, env={})
        assert found.returncode == 0, found.stderr
        print(found.stdout)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_node_clients(served_long: Served, tmp_path: Path) -> None:
    install(["npm", "install", "--loglevel", "http", "--no-audit", "--no-fund", *NODE], tmp_path)
    program = shutil.copy(CLIENTS / "node_clients.mjs", tmp_path)
    for name in (OWN, LLAMA):
        found = subprocess.run(
            ["node", program, served_long.url, name], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert found.stdout == "openai ok\nai ok\n"
