"""Training whose processes a test signals at a chosen rename of a file, and a worker that fails."""

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self
from unittest import mock

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.finetuning.job import FinetuneJob
from homegrown.training.pretraining import Job, pretrain
from homegrown.training.worker import main
from homegrown.util.errors import UserError
from homegrown.util.progress import Progress, silent

Victim = Literal["parent", "worker", "both"]

# As Prefect's flow engine does, SIGTERM raises in the main thread what is no Exception.
_PRETRAIN = """
import json, signal, sys
from pathlib import Path
from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.training.pretraining import pretrain
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
job = json.loads(sys.argv[1])
pretrain(Path(job["out"]), Path(job["packed"]), Path(job["tokenizer"]), ModelSettings(**job["model"]),
         TrainingSettings(**job["settings"]), seed=1, device=job["device"], processes=job["processes"])
"""

_FINETUNE = """
import sys
from pathlib import Path
from homegrown.config.finetune_recipe import FinetuneTraining
from homegrown.finetuning.tuning import finetune
from homegrown.finetuning.job import FinetuneJob
job = FinetuneJob.model_validate_json(sys.argv[2])
finetune(Path(sys.argv[1]), job.base, job.packed, job.finetuning, FinetuneTraining(**job.training.model_dump()),
         system=None, seed=job.seed, device=job.device, processes=1)
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
    """A training whose processes receive signals."""

    @abstractmethod
    def arguments(self) -> list[str]:
        """Return a script for Python and what it reads from `sys.argv`."""

    def signal_at(
        self,
        name: str,
        times: int,
        victim: Literal["parent", "both"],
        folder: Path,
        *,
        number: signal.Signals = signal.SIGKILL,
    ) -> tuple[int, int, str]:
        """Train, launched by another process, until the worker makes or renames something to `name`, and signal.

        Then wait for the end of the launching process.

        Returns:
            Its exit code, the worker's process id, and what was written to the standard error.
        """
        ended = subprocess.run(
            [sys.executable, "-c", *self.arguments()],
            env=os.environ | _told(name, times, victim, folder, number, 0),
            stderr=subprocess.PIPE,
            text=True,
        )
        return ended.returncode, worker_in(folder), ended.stderr


@dataclass(frozen=True)
class Process(Signalled):
    """Arguments of `pretrain`."""

    out: Path
    packed: Path
    tokenizer: Path
    model: ModelSettings
    settings: TrainingSettings

    processes: int = 1
    device: str = "cpu"

    def arguments(self) -> list[str]:
        job = {
            "out": str(self.out),
            "packed": str(self.packed),
            "tokenizer": str(self.tokenizer),
            "model": self.model.model_dump(),
            "settings": self.settings.model_dump(),
            "processes": self.processes,
            "device": self.device,
        }
        return [_PRETRAIN, json.dumps(job)]

    def signal_worker_at(
        self,
        name: str,
        times: int,
        folder: Path,
        *,
        number: signal.Signals = signal.SIGKILL,
        rank: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Pretrain, launched by this process; worker `rank` makes or renames something to `name`, and signals itself.

        `worker_in` then says which process it was. Raises what `pretrain` raises.
        """
        with mock.patch.dict(os.environ, _told(name, times, "worker", folder, number, rank)):
            pretrain(
                self.out,
                self.packed,
                self.tokenizer,
                self.model,
                self.settings,
                seed=1,
                device=self.device,
                processes=self.processes,
                progress=progress,
            )


@dataclass(frozen=True)
class Tuning(Signalled):
    """A fine-tuning by one worker."""

    out: Path
    job: FinetuneJob

    def arguments(self) -> list[str]:
        return [_FINETUNE, str(self.out), self.job.model_dump_json()]


def worker_in(folder: Path) -> int:
    """Return the process id of the worker that signalled."""
    return int((folder / "worker").read_text())


def _told(name: str, times: int, victim: Victim, folder: Path, number: signal.Signals, rank: int) -> dict[str, str]:
    """Write the signaller into the new folder; return the environment in which workers find it and what it is to do."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SIGNALLER)
    record = str(folder / "worker")
    told = {"name": name, "times": times, "victim": victim, "record": record, "signal": number, "rank": rank}
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "SIGNAL_AT": json.dumps(told)}


class Broken(Job):
    """A job whose worker, this module, fails; with the seed `REFUSED` it refuses the job."""

    MESSAGE: ClassVar[str] = "The worker of this job fails"
    REFUSED: ClassVar[int] = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        refused = super().read(path).seed == cls.REFUSED
        raise (UserError if refused else RuntimeError)(cls.MESSAGE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Broken)
