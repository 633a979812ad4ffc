"""The type in which matrix products are computed, and whether a run repeats bit for bit."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from homegrown.config.training import Precision as Setting
from homegrown.training import fp8
from homegrown.util import devices


@dataclass(frozen=True)
class Precision:
    """Weights and their gradients stay float32; products are computed in `dtype` (Micikevicius et al. 2018)."""

    device: str
    dtype: torch.dtype
    eight_bits: bool = False
    """Whether matrices of the blocks multiply in FP8 (`homegrown.training.fp8`), all else in `dtype`."""

    @property
    def products(self) -> torch.dtype:
        """The type of most matrix products, whose peak is the base of MFU."""
        return torch.float8_e4m3fn if self.eight_bits and not fp8.is_emulated() else self.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products are computed in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the scaler that keeps float16 gradients from underflowing; it does nothing for other types."""
        return torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)

    def inexact(self) -> str:
        """Return why a repeated run may get other bits on this machine; empty if it gets the same.

        On processors with AMX, 3 of 70 launched runs in bfloat16 had another loss in their first step, under load; the
        cause is not known.
        """
        if self.device != "cpu":
            return "computed on a GPU"
        return "bfloat16 on AMX" if self.dtype == torch.bfloat16 and _uses_amx() else ""


def arithmetic(workers: int) -> dict[str, int | str]:
    """Return what the bits of a run on a CPU depend on besides its recipe and code."""
    return {
        "workers": workers,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability() + ("+AMX" if _uses_amx() else ""),
        "torch": str(torch.__version__),
    }


def changed(before: Mapping[str, int | str], now: Mapping[str, int | str]) -> str:
    """Return how the arithmetic of two processes differs, for a message; what one of them lacks is left out."""
    return ", ".join(f"{name} {before[name]} → {now[name]}" for name in now if before.get(name, now[name]) != now[name])


def choose_precision(setting: Setting, device: str) -> Precision:
    """Return the precision that `setting` names; `auto` is the fastest without loss on the device."""
    if setting == "auto":
        setting = _fastest(device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.bfloat16}
    return Precision(device, types[setting], eight_bits=setting == "fp8")


def _fastest(device: str) -> Literal["bf16", "fp16", "fp32"]:
    if devices.computes_in_bf16(device):
        return "bf16"
    return "fp16" if device == "cuda" else "fp32"


def _uses_amx() -> bool:
    """Return whether oneDNN multiplies in AMX tiles; its variable ONEDNN_MAX_CPU_ISA can turn them off."""
    bound = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    return torch.cpu._is_amx_tile_supported() and (bound in ("DEFAULT", "ALL") or "AMX" in bound)
