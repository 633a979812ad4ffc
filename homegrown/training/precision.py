"""The type in which matrix products are computed."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Precision:
    """Weights and their gradients stay float32; products are computed in `dtype` (Micikevicius et al. 2018)."""

    device: Literal["cpu", "cuda"]
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products are computed in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the scaler that keeps float16 gradients from underflowing; it does nothing for other types."""
        return torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)


def choose_precision(setting: Literal["auto", "bf16", "fp16", "fp32"], device: Literal["cpu", "cuda"]) -> Precision:
    """Return the precision that `setting` names; `auto` is the fastest without loss on the device."""
    if setting == "auto":
        setting = _fastest(device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return Precision(device, types[setting])


def _fastest(device: Literal["cpu", "cuda"]) -> Literal["bf16", "fp16", "fp32"]:
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"
