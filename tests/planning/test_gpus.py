"""Names of GPUs as people and drivers write them."""

import pytest

from homegrown.planning.gpus import GIB, GPUS, find, recognise, smallest
from homegrown.util.errors import UserError


@pytest.mark.parametrize("name", ["h100", "H100", "NVIDIA H100 SXM", "rtx 4090", "RTX4090", "A100-80", "a100 40"])
def test_names_are_found_however_they_are_written(name: str) -> None:
    assert find(name) in GPUS.values()


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"--gpu h900: .*h100"):
        find("h900")


@pytest.mark.parametrize(
    ("said", "gib", "key"),
    [
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA H200", 140, "h200"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80"),
        ("NVIDIA L40S", 45, "l40s"),
        ("NVIDIA L4", 22, "l4"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA GeForce RTX 3090", 24, "rtx3090"),
        ("NVIDIA H100 PCIe", 80, None),  # slower clocks than the table's
        ("Quadro RTX 4000", 8, None),
    ],
)
def test_drivers_names_are_recognised(said: str, gib: int, key: str | None) -> None:
    assert recognise(said, gib * GIB) is (GPUS[key] if key else None)


def test_the_smallest_with_enough_memory() -> None:
    assert smallest(20 * GIB) is GPUS["a10g"]
    assert smallest(81 * GIB) is GPUS["h200"]
    assert smallest(500 * GIB) is None
