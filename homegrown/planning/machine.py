"""What this machine has, found without PyTorch: processors and their instructions, memory, GPUs."""

import csv
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown.util.parallel import cpu_count

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

INSTRUCTIONS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 BF16": "avx512_bf16",
    "AMX BF16": "amx_bf16",
    "NEON": "asimd",
    "SVE": "sve",
    "ARM BF16": "bf16",
}
"""Instruction sets that matter to matrix products, and Linux's names of them."""


@dataclass(frozen=True)
class LocalGpu:
    """A GPU of this machine as its driver describes it; `watts` is its power limit, None where it has none."""

    name: str
    memory_bytes: int
    driver: str
    watts: float | None


@dataclass(frozen=True)
class Machine:
    """`memory_bytes` is what this process may use, `instructions` those of `INSTRUCTIONS` that the processor has."""

    processor: str
    processors: int
    instructions: tuple[str, ...]
    memory_bytes: int
    gpus: tuple[LocalGpu, ...]

    def device(self, setting: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
        """Return where a recipe with this `compute.device` trains."""
        return "cuda" if setting == "cuda" or (setting == "auto" and self.gpus) else "cpu"

    @property
    def computes_in_bf16(self) -> bool:
        """Whether `training.precision: auto` chooses bfloat16 on the CPU."""
        return bool({"AVX-512 BF16", "AMX BF16"} & set(self.instructions))


def this_machine() -> Machine:
    """Return what can be found out about this machine."""
    processor, flags = _processor()
    return Machine(
        processor=processor,
        processors=cpu_count(),
        instructions=tuple(name for name, flag in INSTRUCTIONS.items() if flag in flags),
        memory_bytes=_memory(),
        gpus=tuple(_gpus()),
    )


def _processor() -> tuple[str, set[str]]:
    fields: dict[str, str] = {}
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set((fields.get("flags") or fields.get("features") or "").split())


def _memory() -> int:
    """Return the machine's memory, or the limit that a container sets."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [file.read_text().strip() for file in _CGROUP if file.exists()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def available_memory() -> int | None:
    """Return the memory that is free for programs now, in bytes; None where the system does not say."""
    if not _MEMINFO.exists():
        return None
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _gpus() -> list[LocalGpu]:
    """Ask NVIDIA's own tool; a machine without it has no GPU that PyTorch's CUDA build could use."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,driver_version,power.limit"]
    try:
        said = subprocess.run(
            [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = []
    for index, uuid, name, megabytes, driver, watts in csv.reader(said.stdout.splitlines(), skipinitialspace=True):
        chosen = visible is None or any(one and (one == index or uuid.startswith(one)) for one in visible.split(","))
        if chosen:
            limit = float(watts) if watts.replace(".", "").isdigit() else None
            found.append(LocalGpu(name, int(megabytes) * 2**20, driver, limit))
    return found
