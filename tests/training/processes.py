"""Training in a process of its own, which a test may have signalled at a chosen rename of a file."""

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown.finetuning.job import FinetuneJob
from homegrown.recipe import ModelSettings, TrainingSettings

Victim = Literal["parent", "worker", "both"]

# As Prefect's flow engine does, SIGTERM raises in the main thread what is no Exception.
_PRETRAIN = """
import json, signal, sys
from pathlib import Path
from homegrown.recipe import ModelSettings, TrainingSettings
from homegrown.training.pretrain import pretrain
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
job = json.loads(sys.argv[1])
pretrain(Path(job["out"]), Path(job["packed"]), Path(job["tokenizer"]), ModelSettings(**job["model"]),
         TrainingSettings(**job["settings"]), seed=1, device="cpu", processes=job["processes"])
"""

_FINETUNE = """
import sys
from pathlib import Path
from homegrown.finetuning.finetune import finetune
from homegrown.finetuning.job import FinetuneJob
job = FinetuneJob.model_validate_json(sys.argv[2])
finetune(Path(sys.argv[1]), job.base, job.packed, job.finetuning, job.training, system=None, seed=job.seed,
         device=job.device, processes=1)
"""

# Imported by every Python process on whose path it lies. Once, when the worker of the given rank is about to make a
# folder of the given name, or to rename a file to it, for the given time, it sends the signal to the process that
# launched it, to itself, or to both. It then gives them time to act on it.
SIGNALLER = """
import json, os, sys, time
told = json.loads(os.environ["SIGNAL_AT"])
seen = 0
def watch(event, args):
    global seen
    if event in ("os.rename", "os.mkdir") and os.environ.get("RANK") == str(told["rank"]):
        if os.fspath(args[event == "os.rename"]).endswith(told["name"]):
            seen += 1
            if seen == told["times"] and not os.path.exists(told["record"]):
                with open(told["record"], "w") as file:
                    file.write(str(os.getpid()))
                if told["victim"] != "worker":
                    os.kill(os.getppid(), told["signal"])
                if told["victim"] != "parent":
                    os.kill(os.getpid(), told["signal"])
                time.sleep(1)
sys.addaudithook(watch)
"""


class Signalled(ABC):
    """A training that is run elsewhere, and signalled there."""

    @abstractmethod
    def arguments(self) -> list[str]:
        """Return a script for Python and what it reads from `sys.argv`."""

    def signal_at(
        self,
        name: str,
        times: int,
        victim: Victim,
        folder: Path,
        *,
        number: signal.Signals = signal.SIGKILL,
        rank: int = 0,
    ) -> tuple[int, int, str]:
        """Run until worker `rank` makes or renames something to `name`, and signal; then wait for the end.

        Returns:
            The exit code, that worker's process id, and what was written to the standard error.
        """
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SIGNALLER)
        record = folder / "worker"
        told = {"name": name, "times": times, "victim": victim, "record": str(record), "signal": number, "rank": rank}
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        ended = subprocess.run(
            [sys.executable, "-c", *self.arguments()],
            env={**os.environ, "PYTHONPATH": path, "SIGNAL_AT": json.dumps(told)},
            stderr=subprocess.PIPE,
            text=True,
        )
        return ended.returncode, int(record.read_text()), ended.stderr


@dataclass(frozen=True)
class Process(Signalled):
    """Arguments of `pretrain`."""

    out: Path
    packed: Path
    tokenizer: Path
    model: ModelSettings
    settings: TrainingSettings

    processes: int = 1

    def arguments(self) -> list[str]:
        job = {
            "out": str(self.out),
            "packed": str(self.packed),
            "tokenizer": str(self.tokenizer),
            "model": self.model.model_dump(),
            "settings": self.settings.model_dump(),
            "processes": self.processes,
        }
        return [_PRETRAIN, json.dumps(job)]


@dataclass(frozen=True)
class Tuning(Signalled):
    """A fine-tuning by one worker."""

    out: Path
    job: FinetuneJob

    def arguments(self) -> list[str]:
        return [_FINETUNE, str(self.out), self.job.model_dump_json()]
