"""Names of GPUs as people write them."""

import pytest

from homegrown.planning.gpus import GIB, GPUS, find, smallest
from homegrown.util.errors import UserError


@pytest.mark.parametrize("name", ["h100", "H100", "NVIDIA H100 SXM", "rtx 4090", "RTX4090", "A100-80", "a100 40"])
def test_names_are_found_however_they_are_written(name: str) -> None:
    assert find(name) in GPUS.values()


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"--gpu h900: unknown GPU; .*h100"):
        find("h900")


def test_the_smallest_with_enough_memory() -> None:
    assert smallest(20 * GIB) is GPUS["a10g"]
    assert smallest(81 * GIB) is GPUS["h200"]
    assert smallest(500 * GIB) is None
