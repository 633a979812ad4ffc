"""Hardware of this machine: processors and their instructions, memory, GPUs."""

import csv
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from homegrown.util import devices
from homegrown.util.parallel import cpu_count

_OTHER_DRIVERS = (Path("/dev/kfd"), Path("/dev/dri"))
"""Of AMD's and of Intel's GPUs on Linux."""

_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

INSTRUCTIONS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 BF16": "avx512bf16",
    "AMX BF16": "amx-bf16",
    "NEON": "neon",
    "SVE": "sve",
    "ARM BF16": "bf16",
}
"""Instruction sets that matter for matrix products, and LLVM's names for them."""


@dataclass(frozen=True)
class LocalGpu:
    """A GPU of this machine; `driver` is empty and `watts`, its power limit, None if no tool of its maker was asked."""

    name: str
    memory_bytes: int
    driver: str
    watts: float | None
    kind: str = "cuda"
    """The type of its `torch.device`."""


@dataclass(frozen=True)
class Machine:
    """`memory_bytes` is what this process may use; `instructions` are those that the processor has."""

    processor: str
    processors: int
    instructions: tuple[str, ...]
    memory_bytes: int
    gpus: tuple[LocalGpu, ...]

    def device(self, setting: str) -> str:
        """Return the type of device on which a recipe with this `compute.device` trains."""
        if setting != "auto":
            return setting
        return self.gpus[0].kind if self.gpus else "cpu"

    @property
    def computes_in_bf16(self) -> bool:
        """Whether `training.precision: auto` chooses bfloat16 on the CPU."""
        return bool({"AVX-512 BF16", "AMX BF16"} & set(self.instructions))


def this_machine() -> Machine:
    """Detect the hardware of this machine."""
    import llvmlite.binding  # numba's

    features = llvmlite.binding.get_host_cpu_features()
    return Machine(
        processor=f"{platform.machine()} ({llvmlite.binding.get_host_cpu_name()})",
        processors=cpu_count(),
        instructions=tuple(name for name, flag in INSTRUCTIONS.items() if features.get(flag)),
        memory_bytes=_memory(),
        gpus=tuple(_gpus()),
    )


def _memory() -> int:
    """Return the memory of the machine, or the limit of its container."""
    limits = [file.read_text().strip() for file in _CGROUP if file.exists()]
    return min([int(psutil.virtual_memory().total), *(int(limit) for limit in limits if limit.isdigit())])


def available_memory() -> int:
    """Return the memory available to programs now, in bytes."""
    return int(psutil.virtual_memory().available)


def _gpus() -> list[LocalGpu]:
    """Ask nvidia-smi, which is quicker than importing PyTorch; else PyTorch, if there may be another maker's GPU."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,driver_version,power.limit"]
    try:
        said = subprocess.run(
            [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return _other_gpus() if sys.platform == "darwin" or any(map(Path.exists, _OTHER_DRIVERS)) else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = []
    for index, uuid, name, megabytes, driver, watts in csv.reader(said.stdout.splitlines(), skipinitialspace=True):
        chosen = visible is None or any(one and (one == index or uuid.startswith(one)) for one in visible.split(","))
        if chosen:
            limit = float(watts) if watts.replace(".", "").isdigit() else None
            found.append(LocalGpu(name, int(megabytes) * 2**20, driver, limit))
    return found


def _other_gpus() -> list[LocalGpu]:
    kind = devices.accelerator()
    if kind is None:
        return []
    gpu = LocalGpu(devices.describe(kind), devices.total_memory(kind), "", None, kind)
    return [gpu] * devices.count()
