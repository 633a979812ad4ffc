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
    """This process's rank and device, from the elastic launcher's environment, and sums over all workers.

    `writers` is a second group of all workers, on the CPU: it writes checkpoints while training continues.
    """

    writers: ProcessGroup

    def __init__(self, device: str):
        """Choose the device and its settings.

        Raises:
            UserError: `device` asks for a GPU and none is visible, or fewer than workers.
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
        """Whether this worker writes the files."""
        return self.rank == 0

    def join(self, out: Path) -> None:
        """Connect to the other workers through a file in the folder `out`; returns when all have connected.

        Each attempt of the elastic launcher has its own file, because the addresses of dead workers remain.
        """
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = FileStore(str(out / f"{STORE}{attempt}"), self.count)
        backend = "cpu:gloo,cuda:nccl" if self.kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.count)
        self.writers = dist.new_group(backend="gloo")

    def leave(self) -> None:
        """Disconnect from the other workers; then end the process with `stopping.end_process`.

        Whatever drops the last reference to a Gloo group, such as a dying DDP module, waits for the group's threads and
        keeps Python's lock; a thread that still has to release a tensor waits for that lock. So references are kept.
        """
        _left.extend((dist.group.WORLD, self.writers))
        dist.destroy_process_group()

    def sum(self, values: Tensor) -> Tensor:
        """Return `values` [any shape], which must be on this worker's device, summed over all workers."""
        dist.all_reduce(values)
        return values

    def least(self, value: int) -> int:
        """Return the smallest of all workers' values."""
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        return int(shared)

    def agree(self, value: int) -> int:
        """Return the leading worker's `value`."""
        shared = torch.tensor(value, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared)
