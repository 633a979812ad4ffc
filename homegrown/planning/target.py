"""The target of a plan: this machine, or GPUs by their public specifications."""

from dataclasses import dataclass
from typing import Literal

from homegrown.config.training import Precision
from homegrown.planning.compute import AnyRecipe
from homegrown.planning.energy import WATTS_PER_PROCESSOR
from homegrown.planning.gpus import Gpu
from homegrown.planning.machine import Machine
from homegrown.util.errors import UserError

_GPU_WATTS = 300.0
"""Assumed for a GPU whose driver reports no power limit."""


@dataclass(frozen=True)
class Target:
    """`count` devices with the memory and power of each; `value_bytes` is the size of a number in matrix products."""

    name: str
    device: str
    count: int
    value_bytes: Literal[2, 4]
    memory_bytes: int
    watts: float
    watts_source: str
    gpu: Gpu | None = None
    """Public specifications, if the plan uses them."""


def this_machine_as_target(machine: Machine, recipe: AnyRecipe, watts: float | None) -> Target:
    """Return machines such as this one, with the device and the number of processes and nodes of the recipe.

    Raises:
        UserError: the recipe requires a GPU and the machine has none.
    """
    device = machine.device(recipe.compute.device)
    processes, nodes, precision = recipe.compute.processes, recipe.compute.nodes, recipe.training.precision
    if device != "cpu":
        if not machine.gpus:
            raise UserError(f"compute.device is {device!r}, but this machine has no GPU; name one with --gpu.")
        gpu = machine.gpus[0]
        source = "the GPU's power limit" if gpu.watts else "assumed; the driver reports no power limit"
        return Target(
            name=gpu.name,
            device=device,
            count=processes * nodes,
            value_bytes=value_bytes(precision, narrow=True),
            memory_bytes=gpu.memory_bytes,
            watts=watts or gpu.watts or _GPU_WATTS,
            watts_source="as set with --watts" if watts else source,
        )
    source = f"assumed: {WATTS_PER_PROCESSOR:g} W per processor"
    return Target(
        name=f"{machine.processor}, {machine.processors} processors",
        device=device,
        count=processes * nodes,
        value_bytes=value_bytes(precision, narrow=machine.computes_in_bf16),
        memory_bytes=machine.memory_bytes // processes,
        watts=watts or WATTS_PER_PROCESSOR * machine.processors / processes,
        watts_source="as set with --watts" if watts else source,
    )


def gpus_as_target(gpu: Gpu, count: int, recipe: AnyRecipe, watts: float | None) -> Target:
    """Return GPUs of the table."""
    return Target(
        name=gpu.name,
        device="cuda",
        count=count,
        value_bytes=value_bytes(recipe.training.precision, narrow=True),
        memory_bytes=gpu.memory_bytes,
        watts=watts or gpu.watts,
        watts_source="as set with --watts" if watts else "the board's maximum by its maker",
        gpu=gpu,
    )


def value_bytes(precision: Precision, *, narrow: bool) -> Literal[2, 4]:
    """Return the size of a number in matrix products; `auto` is `narrow` if the device supports it.

    With FP8 the inputs of products are kept in bfloat16.
    """
    return 4 if precision == "fp32" or (precision == "auto" and not narrow) else 2
