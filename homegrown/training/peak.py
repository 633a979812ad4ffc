"""Peak FLOPS of this machine, measured on matrix products: the base of MFU."""

import time
from functools import cache, partial

import torch

from homegrown.util import devices

_SIZES, _ACCELERATOR_SIZES = (384, 768, 1536), (2048, 4096, 8192)
_SECONDS = 0.2
"""Time to measure each size."""


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations per second of the fastest product of square matrices of `dtype` on `device`.

    With the current number of threads on a CPU, and PyTorch's current matmul precision on a GPU. A product of n x n
    matrices is 2 n^3 operations. That of FP8 has a scale for each matrix and a bfloat16 result. It takes under a
    second, once per process.
    """
    return _measure(device, dtype, torch.get_num_threads(), torch.get_float32_matmul_precision())


@cache
def _measure(device: torch.device, dtype: torch.dtype, _threads: int, _precision: str) -> float:
    best = 0.0
    for size in _SIZES if device.type == "cpu" else _ACCELERATOR_SIZES:
        rate = _rate(device, dtype, size)
        # A much slower size no longer fits the caches; larger ones would only take long.
        if rate < best / 2:
            break
        best = max(best, rate)
    return best


def _rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    # Random numbers, because a GPU draws less power and clocks higher on constants; from a separate generator, because
    # the measurement must not change what training draws.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    if dtype.itemsize == 1:
        one = torch.ones((), device=device)
        multiply = partial(torch._scaled_mm, left, right.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    else:
        multiply = partial(torch.mm, left, right, out=torch.empty_like(left))
    best, began, repeats = float("inf"), time.perf_counter(), 1
    # The first products warm up threads, kernels and clocks; the best of many is the peak.
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        for _ in range(repeats):
            multiply()
        devices.synchronize(device)
        taken = (time.perf_counter() - start) / repeats
        best = min(best, taken)
        # A batch is long enough to hide the clock's resolution and the launch of kernels.
        repeats = max(1, int(0.02 / taken))
    return 2 * size**3 / best
