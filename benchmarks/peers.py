"""The peers of the corpus benchmarks, in an environment of their own: `python -m benchmarks.peers` makes it.

datatrove allows no current trafilatura, so that it cannot be installed beside this project. The environment is
`.venv-peers` in the project's root. Benchmarks call the functions of `benchmarks.peer_functions` in it.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-peers"
PINS = ("datatrove[processing]==0.10.1", "spacy==3.8.18", "rensa==0.5.0", "pyarrow==26.0.1", "orjson==3.13.0")
_PYTHON = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed() -> bool:
    """Return whether the environment has the peers in these versions."""
    done = FOLDER / "pins.json"
    return done.is_file() and json.loads(done.read_text()) == list(PINS)


def check() -> None:
    """End the program with a message if the environment is missing."""
    if not installed():
        sys.exit("The peers are not installed; run: python -m benchmarks.peers")


def call(name: str, **arguments: Any) -> Any:
    """Return what a function of `benchmarks.peer_functions` returns for JSON arguments, in the peers' environment."""
    check()
    with tempfile.TemporaryDirectory() as folder:
        given, returned = Path(folder, "given.json"), Path(folder, "returned.json")
        given.write_text(json.dumps(arguments), encoding="utf-8")
        command = [str(_PYTHON), "-m", "benchmarks.peer_functions", name, str(given), str(returned)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        return json.loads(returned.read_text(encoding="utf-8"))


def install() -> None:
    """Make the environment."""
    venv.create(FOLDER, clear=True, with_pip=True)
    subprocess.run([str(_PYTHON), "-m", "pip", "install", "--quiet", *PINS], check=True)
    (FOLDER / "pins.json").write_text(json.dumps(PINS))


if __name__ == "__main__":
    install()
    print(f"The peers are installed in {FOLDER.name}.")
