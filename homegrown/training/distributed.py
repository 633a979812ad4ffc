"""One worker among the processes that train together."""

import os
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore
from torch.distributed import ProcessGroup

from homegrown.training.job import STORE
from homegrown.util.devices import gpu_names, resolve
from homegrown.util.parallel import cpu_count

_left: list[ProcessGroup | None] = []


class Worker:
    """This process's place, as the elastic launcher's environment says, its device, and sums over all workers.

    `writers` are all workers, met on the CPU apart from training: to write checkpoints while it goes on.
    """

    writers: ProcessGroup

    def __init__(self, device: str):
        """Choose the device and its settings.

        Raises:
            UserError: a GPU is asked for and there is none, or not one for each worker.
        """
        self.rank, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank, local_count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self.kind: Literal["cpu", "cuda"] = "cuda" if resolve(device) == "cuda" else "cpu"
        if self.kind == "cuda":
            gpu_names(local_count)
            torch.cuda.set_device(local_rank)
            torch.set_float32_matmul_precision("high")
            self.device = torch.device("cuda", local_rank)
        else:
            torch.set_num_threads(max(1, cpu_count() // local_count))
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            self.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this worker is the one that writes files."""
        return self.rank == 0

    def join(self, out: Path) -> None:
        """Meet the other workers, by a file in the folder `out`; returns when all are there.

        Each of the elastic launcher's attempts has a file of its own: the addresses of workers that have died remain.
        """
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = FileStore(str(out / f"{STORE}{attempt}"), self.count)
        backend = "cpu:gloo,cuda:nccl" if self.kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.count)
        self.writers = dist.new_group(backend="gloo")

    def leave(self) -> None:
        """Part from the other workers; end the process by `stopping.end_process` then.

        The last that holds a group of Gloo, such as a DDP module on its way out, waits for the group's threads, and
        Python with it; a thread that has still to let go of a tensor waits for Python. So groups are held for ever.
        """
        _left.extend((dist.group.WORLD, self.writers))
        dist.destroy_process_group()

    def sum(self, values: Tensor) -> Tensor:
        """Return `values`, which must lie on this worker's device, summed over all workers."""
        dist.all_reduce(values)
        return values

    def least(self, value: int) -> int:
        """Return the least of all workers' values."""
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        return int(shared)

    def agree(self, value: int) -> int:
        """Return the leading worker's `value`."""
        shared = torch.tensor(value, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared)
