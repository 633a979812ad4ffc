"""One worker among the processes that train together."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore
from torch.distributed import ProcessGroup

from homegrown.training.job import RENDEZVOUS, STORE
from homegrown.util import devices
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
        self.kind = devices.resolve(device)
        self.sums = torch.float64 if devices.traits(self.kind).doubles else torch.float32
        if self.kind != "cpu":
            devices.names(self.kind, local_count)
            self.device = devices.select(self.kind, local_rank)
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

        Workers of several machines connect at the address where their launchers met. Each attempt of the elastic
        launcher has its own file, or keys, because the addresses of dead workers remain.
        """
        store: Store
        if address := os.environ.get(RENDEZVOUS):
            host, _, port = address.rpartition(":")
            attempt = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            store = PrefixStore(f"homegrown/{attempt}", TCPStore(host, int(port), wait_for_workers=False))
        else:
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = FileStore(str(out / f"{STORE}{attempt}"), self.count)
        backend = "gloo"
        if self.kind != "cpu" and self.count > 1:
            backend = f"cpu:gloo,{self.kind}:{dist.get_default_backend_for_device(self.kind)}"
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
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def least(self, value: int) -> int:
        """Return the smallest of all workers' values."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        return int(shared)

    def agree(self, value: int) -> int:
        """Return the leading worker's `value`."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared)
