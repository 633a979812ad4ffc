"""What is found out about a machine, against PyTorch's own detection and a driver's tool that we wrote."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from homegrown.planning import energy, machine
from homegrown.planning.machine import this_machine
from homegrown.training.precision import choose_precision

SMI = """#!/bin/sh
echo "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 550.54.15, 700.00"
echo "1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 550.54.15, [N/A]"
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_instructions_are_those_that_pytorch_sees() -> None:
    found = this_machine()
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("AVX2", "AVX512"):
        assert "AVX2" in found.instructions
        assert ("AVX-512" in found.instructions) >= (capability == "AVX512")
    assert found.computes_in_bf16 == (choose_precision("auto", "cpu").dtype == torch.bfloat16)


def test_memory_is_the_containers_limit_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP", (limit,))
    limit.write_text("max\n")
    unlimited = this_machine().memory_bytes
    limit.write_text("1000000\n")
    assert unlimited == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert this_machine().memory_bytes == 1_000_000


def test_gpus_are_what_the_driver_says(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = this_machine()
    assert [(gpu.name, gpu.memory_bytes, gpu.watts) for gpu in found.gpus] == [
        ("NVIDIA H100 80GB HBM3", 81559 * 2**20, 700.0),
        ("NVIDIA H100 80GB HBM3", 81559 * 2**20, None),
    ]
    assert (found.device("auto"), found.device("cpu")) == ("cuda", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.watts for gpu in this_machine().gpus] == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not this_machine().gpus


def test_power_is_what_the_packages_counters_gained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(**microjoules: int) -> None:
        for zone, value in microjoules.items():
            folder = tmp_path / f"intel-rapl:{zone.removeprefix('zone').replace('_', ':')}"
            folder.mkdir(exist_ok=True)
            (folder / "name").write_text({"zone2": "psys\n", "zone0_0": "core\n"}.get(zone, "package-0\n"))
            (folder / "energy_uj").write_text(f"{value}\n")

    clock = iter([10.0, 14.0, 14.0])
    monkeypatch.setattr(energy, "_COUNTERS", tmp_path)
    monkeypatch.setattr(energy, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    count(zone0=1_000_000, zone1=5_000_000, zone0_0=900_000, zone2=70_000_000)
    meter = energy.EnergyMeter()
    count(zone0=101_000_000, zone1=105_000_000, zone0_0=90_000_000, zone2=900_000_000)
    assert meter.watts() == pytest.approx((100 + 100) / 4)
    count(zone0=0, zone1=0)
    assert meter.watts() is None  # a counter began anew
