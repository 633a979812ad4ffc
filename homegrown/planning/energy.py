"""Power and energy: by the energy counter of the processor where it can be read, else by a stated assumption."""

import time
from pathlib import Path

_COUNTERS = Path("/sys/class/powercap")

WATTS_PER_PROCESSOR = 10.0
"""Assumed per processor where no counter can be read, memory and power supply included: between a large server (AMD
EPYC 9654: 360 W for 96 cores) and a desktop (Intel Core i9-13900K: 253 W for 24)."""


class EnergyMeter:
    """Adds up the energy of the processor packages, other programs included, by Intel's and AMD's RAPL counters.

    Linux exposes them, often to root only.
    """

    def __init__(self) -> None:
        self._before, self._began = _joules(), time.perf_counter()

    def watts(self) -> float | None:
        """Return the mean power since this meter was created; None without a counter, or if it has wrapped around."""
        after, seconds = _joules(), time.perf_counter() - self._began
        if self._before is None or after is None or after < self._before:
            return None
        return (after - self._before) / seconds


def _joules() -> float | None:
    total = None
    for zone in _COUNTERS.glob("intel-rapl:*"):
        # A zone with two numbers is a part of another one; "psys" counts the packages again.
        if zone.name.count(":") > 1:
            continue
        try:
            if (zone / "name").read_text().startswith("package"):
                total = (total or 0.0) + int((zone / "energy_uj").read_text()) / 1e6
        except (OSError, ValueError):
            return None
    return total
