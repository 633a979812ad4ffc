"""The device of a stage, and the peak memory of a process."""

import resource
import sys
from pathlib import Path

from homegrown.util.errors import UserError


def resolve(device: str) -> str:
    """Return "cpu" or "cuda" for the setting `compute.device`; "auto" prefers a GPU.

    Raises:
        UserError: the setting is "cuda" and PyTorch sees no GPU.
    """
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError("compute.device is 'cuda', but PyTorch sees no GPU; set it to 'auto' or 'cpu'.")
    return "cpu"


def gpu_names(count: int) -> list[str]:
    """Return the UUIDs of the first `count` visible GPUs, the same in every process.

    Raises:
        UserError: fewer GPUs are visible.
    """
    import torch

    visible = torch.cuda.device_count()
    if count > visible:
        raise UserError(f"compute.processes is {count}, but PyTorch sees {visible} GPU(s); one process needs one each.")
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    if sys.platform == "linux":
        # psutil reports no peak on Linux, and ru_maxrss starts from the parent's peak.
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
