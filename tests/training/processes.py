"""Pretraining in a process of its own, which a test may kill at a chosen rename of a file."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown.recipe import ModelSettings, TrainingSettings

Victim = Literal["parent", "worker", "both"]

SCRIPT = """
import json, sys
from pathlib import Path
from homegrown.recipe import ModelSettings, TrainingSettings
from homegrown.training.pretrain import pretrain
job = json.loads(sys.argv[1])
pretrain(Path(job["out"]), Path(job["packed"]), Path(job["tokenizer"]), ModelSettings(**job["model"]),
         TrainingSettings(**job["settings"]), seed=1, device="cpu", processes=1)
"""

# Imported by every Python process on whose path it lies. Once, when a worker is about to rename a file to the given
# name for the given time, it kills the process that launched it, itself, or both.
KILLER = """
import os, signal, sys, time
name, times, victim, record = os.environ["KILL_AT"].split(":")
seen = 0
def watch(event, args):
    global seen
    if event == "os.rename" and os.fspath(args[1]).endswith(name):
        seen += 1
        if seen == int(times) and not os.path.exists(record):
            with open(record, "w") as file:
                file.write(str(os.getpid()))
            if victim != "worker":
                os.kill(os.getppid(), signal.SIGKILL)
            if victim != "parent":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Process:
    """Arguments of `pretrain`, to be run elsewhere."""

    out: Path
    packed: Path
    tokenizer: Path
    model: ModelSettings
    settings: TrainingSettings

    def kill_at(self, name: str, times: int, victim: Victim, folder: Path) -> tuple[int, int]:
        """Run until a worker is about to rename something to `name`; return the exit code and that worker's id."""
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(KILLER)
        record = folder / "worker"
        kill_at = f"{name}:{times}:{victim}:{record}"
        job = {
            "out": str(self.out),
            "packed": str(self.packed),
            "tokenizer": str(self.tokenizer),
            "model": self.model.model_dump(),
            "settings": self.settings.model_dump(),
        }
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(job)],
            env={**os.environ, "PYTHONPATH": str(folder), "KILL_AT": kill_at},
            timeout=120,
        )
        return ended.returncode, int(record.read_text())
