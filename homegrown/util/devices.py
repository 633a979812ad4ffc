"""Devices that train and generate: every accelerator that PyTorch knows, through `torch.accelerator`, or the CPU.

Everything that depends on the type of a device is here: its memory, its precisions, its compiler, its kernels and what
is done without them. A device's type is that of `torch.device`: "cuda" is NVIDIA's and, in PyTorch's ROCm build, AMD's.
"""

import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homegrown.util.errors import UserError

if TYPE_CHECKING:  # plans need no PyTorch
    import torch


@dataclass(frozen=True)
class Traits:
    """The support of one type of device.

    `compilers` are those of which `torch.compile` needs one, none if it is not used; `together` says whether several
    processes train together, `doubles` whether there is float64, `peaks` whether PyTorch keeps the peak of its memory,
    `pins` whether copies to it gain from pinned memory, `bitsandbytes` whether that library has kernels for it.
    """

    name: str
    compilers: tuple[str, ...]
    together: bool
    doubles: bool
    peaks: bool
    pins: bool
    bitsandbytes: bool


_TRITON = ("gcc", "clang")
"""C compilers for the launchers of Triton's kernels."""
_TRAITS = {
    "cpu": Traits("CPU", ("g++", "clang++", "cl"), True, True, peaks=True, pins=False, bitsandbytes=True),
    "cuda": Traits("NVIDIA or AMD", _TRITON, True, True, peaks=True, pins=True, bitsandbytes=True),
    "xpu": Traits("Intel", _TRITON, True, True, peaks=True, pins=True, bitsandbytes=True),
    "mps": Traits("Apple", (), False, False, peaks=False, pins=False, bitsandbytes=False),
}
_OTHER = Traits("other", (), False, False, peaks=False, pins=False, bitsandbytes=False)
"""What is assumed of an accelerator that is not in the table."""


def traits(device: str) -> Traits:
    """Return the support of a type of device."""
    return _TRAITS.get(device, _OTHER)


def fallbacks(device: str) -> list[str]:
    """Return what is done without the support that a type of device lacks."""
    its = traits(device)
    missing = {
        "operators that it lacks run on the CPU": device != "mps",
        "sums in float32": its.doubles,
        "micro-batches of a fixed size": its.peaks,
        "one training process": its.together,
        "no torch.compile": bool(its.compilers),
        "int8 and nf4 variants on the CPU": its.bitsandbytes,
    }
    return [what for what, supported in missing.items() if not supported]


def accelerator() -> str | None:
    """Return the type of the accelerator that PyTorch uses on this machine, None without one."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None else found.type


def resolve(device: str) -> str:
    """Return the type of device for the setting `compute.device`; "auto" prefers an accelerator.

    Raises:
        UserError: the setting names an accelerator and PyTorch sees none, or another.
    """
    if device == "cpu":
        return device
    found = accelerator()
    if device == "auto":
        return found or "cpu"
    if found != device:
        seen = "no accelerator" if found is None else f"{found!r}"
        raise UserError(f"compute.device is {device!r}, but PyTorch sees {seen}; set it to 'auto' or 'cpu'.")
    return device


def compiler(device: str) -> str | None:
    """Return the path of a compiler that `torch.compile` can use for a type of device, None without one."""
    return next((path for path in map(shutil.which, traits(device).compilers) if path), None)


def count() -> int:
    """Return the number of visible accelerators."""
    import torch

    return int(torch.accelerator.device_count())


def names(device: str, processes: int) -> list[str]:
    """Return names of the accelerators of so many processes, the same in every process: UUIDs where they have some.

    Raises:
        UserError: fewer are visible, or they cannot train together.
    """
    if processes > (visible := count()):
        raise UserError(
            f"compute.processes is {processes}, but PyTorch sees {visible} accelerator(s); one process needs one each."
        )
    if processes > 1 and not traits(device).together:
        raise UserError(f"compute.processes is {processes}, but {device!r} trains with one process; set it to 1.")
    return [str(getattr(_properties(device, index), "uuid", f"{device}-{index}")) for index in range(processes)]


def select(device: str, index: int) -> "torch.device":
    """Make an accelerator the current one of this process, and return it."""
    import torch

    torch.accelerator.set_device_index(index)
    torch.set_float32_matmul_precision("high")
    return torch.device(device, index)


def describe(device: str) -> str:
    """Return the name of the first accelerator, and its capability where it has one."""
    import torch

    name = str(getattr(_properties(device, 0), "name", traits(device).name))
    if device != "cuda":
        return name
    major, minor = torch.get_device_module(device).get_device_capability(0)
    return f"{name}, capability {major}.{minor}"


def total_memory(device: str) -> int:
    """Return the memory of the first accelerator in bytes; an Apple GPU shares that of the machine."""
    import torch

    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    return int(torch.accelerator.get_memory_info(0)[1])


def available_memory(device: "torch.device") -> int:
    """Return the memory of an accelerator that this process has or can still get, in bytes."""
    import torch

    free, _ = torch.accelerator.get_memory_info(device)
    return int(free) + int(torch.accelerator.memory_reserved(device))


def reset_peak_memory(device: "torch.device") -> None:
    """Start to measure the peak memory of an accelerator whose traits have `peaks`."""
    import torch

    torch.accelerator.reset_peak_memory_stats(device)


def peak_memory(device: "torch.device") -> int:
    """Return the peak memory of this process so far in bytes: on its accelerator, or else resident."""
    import torch

    if device.type == "cpu":
        return resident_peak()
    if not traits(device.type).peaks:
        return int(torch.mps.driver_allocated_memory()) if device.type == "mps" else resident_peak()
    return int(torch.accelerator.max_memory_allocated(device))


def synchronize(device: "torch.device") -> None:
    """Wait until an accelerator has finished its work; a CPU has."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def computes_in_bf16(device: str) -> bool:
    """Return whether bfloat16 products are native on a type of device."""
    import torch

    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if device == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    asked = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return asked is not None and bool(asked(including_emulation=False))


def computes_in_fp8(device: str) -> bool:
    """Return whether products in FP8 are native: NVIDIA's from capability 8.9 on, AMD's from 9.4 on."""
    import torch

    if device != "cuda":
        return False
    capability = torch.get_device_module(device).get_device_capability(0)
    return bool(capability >= ((9, 4) if torch.version.hip else (8, 9)))


def _properties(device: str, index: int) -> Any:
    import torch

    asked = getattr(torch.get_device_module(device), "get_device_properties", None)
    return None if asked is None else asked(index)


def resident_peak() -> int:
    """Return the peak resident memory of this process, in bytes."""
    if sys.platform == "linux":
        # psutil reports no peak on Linux, and ru_maxrss starts from the parent's peak.
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
