"""The job that the launching process gives its workers, and the names of the files they exchange."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, ValidationError

from homegrown.config.compute import Parallel
from homegrown.config.settings import Settings
from homegrown.config.training import TrainingSettings
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.data.loader import TokenSplit
    from homegrown.training.task import TrainingTask

JOB = "job.json"
PARENT_LOCK = "parent.lock"
WORKER_LOCK = "worker.lock"
PROGRESS = "progress.jsonl"
REFUSAL = "refusal.txt"
DISK_FULL = "disk-full"
SUMMARY = "summary.json"
STEPS = "steps.jsonl"
METRICS = "metrics.parquet"
SAMPLES = "samples.parquet"
CURVE = "curve.png"
EVENTS = "tensorboard"
LOGS = "logs"
NO_TCP_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Keeps PyTorch's launcher from a store that listens on all interfaces; the workers connect through a file."""
CHECKPOINTS = "checkpoints"
EXTENDED = "extended.txt"
"""File with the folder of the artifact that the run extends."""
STORE = ".store-"
"""Prefix of the files in which launcher and workers leave their addresses."""


RENDEZVOUS = "HOMEGROWN_RENDEZVOUS"
"""Variable of the environment with the address where the workers of several machines meet."""
MACHINE_LOCK = "HOMEGROWN_MACHINE_LOCK"
"""Variable of the environment with the file that the launcher of a machine that joined keeps locked."""


@dataclass(frozen=True)
class Nodes:
    """The machines that train together: how many, and the address HOST:PORT at which that of the run listens."""

    count: int = 1
    address: str = "127.0.0.1:29400"


ALONE = Nodes()


class TrainingJob(Settings, ABC):
    """One training run of any kind; its file is in the folder of its results."""

    loss_unit: ClassVar[str] = "nats per token"
    packed: Path
    tokenizer: Path
    training: TrainingSettings
    seed: int
    device: str
    parallel: Parallel = "ddp"
    started: float = Field(default_factory=time.time)
    """Time of the request, in seconds since 1970."""

    @abstractmethod
    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "TrainingTask":
        """Return the task on the tokens `train`; raises UserError if a setting does not fit them."""

    def write(self, out: Path) -> Path:
        """Write the job to `out` and return its path."""
        with replacing(out / JOB) as temporary:
            temporary.write_text(self.model_dump_json(indent=2))
        return out / JOB

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a job; raises UserError if the file is not one."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(f"{path} is not a training job; start training through its stage.") from error
