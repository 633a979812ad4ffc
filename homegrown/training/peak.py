"""The highest rate at which this machine multiplies matrices, measured: what model FLOPs utilisation is a share of."""

import time
from functools import cache

import torch

_SIZES = {"cpu": (384, 768, 1536), "cuda": (2048, 4096, 8192)}
_SECONDS = 0.2
"""How long each size is measured."""


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations per second of the fastest product of square matrices of `dtype` on `device`.

    On a CPU it is that of the present number of threads; float32 on a GPU is under PyTorch's present matmul precision.
    A product of n x n matrices is 2 n^3 operations. Takes under a second; asked again, the process remembers.
    """
    return _measure(device, dtype, torch.get_num_threads(), torch.get_float32_matmul_precision())


@cache
def _measure(device: torch.device, dtype: torch.dtype, _threads: int, _precision: str) -> float:
    best = 0.0
    for size in _SIZES[device.type]:
        rate = _rate(device, dtype, size)
        # What is much slower than a smaller size would only take long: the caches hold it no more.
        if rate < best / 2:
            break
        best = max(best, rate)
    return best


def _rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    # Random numbers, because a GPU draws less power and clocks higher on constants; a generator of its own, because
    # the training that asks must draw the same as one that does not.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    best, began, repeats = float("inf"), time.perf_counter(), 1
    # The first products warm up: threads, kernels chosen, clocks. The best of many is what the device can do.
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken = (time.perf_counter() - start) / repeats
        best = min(best, taken)
        # Enough to a batch that neither the clock nor the launch of kernels counts.
        repeats = max(1, int(0.02 / taken))
    return 2 * size**3 / best
