"""Layouts of a recipe's training on its devices: sequences per forward pass, and alternatives that save memory."""

from dataclasses import dataclass, replace
from typing import Literal

from homegrown.config.compute import Parallel
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import Adapter, AnyRecipe, adapter_of, flops_per_token, step_tokens
from homegrown.planning.memory import MARGIN, Layout, Memory, training_memory
from homegrown.training.compilation import compiles
from homegrown.util.errors import UserError

CPU_TOKENS = 1024
"""`homegrown.training.microbatch._CPU_TOKENS`, whose import needs PyTorch."""


@dataclass(frozen=True)
class Fit:
    """A layout, its memory, and whether it fits the device."""

    layout: Layout
    memory: Memory
    fits: bool


def layouts(
    recipe: AnyRecipe,
    config: ModelConfig,
    device: str,
    value_bytes: Literal[2, 4],
    devices: int,
    memory_bytes: int,
) -> list[Fit]:
    """Return the memory of each layout on one device, the recipe's own layout first.

    Layouts are DDP and, on several devices, FSDP2, each without and with activation checkpointing.

    Raises:
        UserError: so many devices cannot share the batch.
    """
    settings, adapter = recipe.training, adapter_of(recipe)
    parallels: list[Parallel] = ["ddp", "fsdp"] if devices > 1 else ["ddp"]
    kinds = [(parallel, again) for parallel in parallels for again in (False, True)]
    own = (recipe.compute.parallel if devices > 1 else "ddp", settings.activation_checkpointing)
    kinds.sort(key=lambda kind: kind != own)
    if problem := settings.uneven(devices, "The devices"):
        raise UserError(f"{problem}.")
    share = settings.batch_size // devices
    tokens = step_tokens(config, settings) * settings.max_steps
    compiled = compiles(settings.compile, device, flops_per_token(config, adapter), tokens)
    found = []
    for parallel, again in kinds:
        layout = Layout(
            device=device,
            value_bytes=value_bytes,
            rows=share,
            passes=1,
            devices=devices,
            parallel=parallel,
            checkpointing=again,
            compiled=compiled,
        )
        layout = _with_rows(config, settings, layout, memory_bytes, adapter)
        memory = training_memory(config, settings, layout, adapter)
        found.append(Fit(layout, memory, fits(memory.peak, memory_bytes)))
    return found


def fits(peak: int, memory_bytes: int) -> bool:
    """Return whether the peak fits the memory of a device, with a margin."""
    return peak <= (1 - MARGIN) * memory_bytes


def _with_rows(
    config: ModelConfig, settings: TrainingSettings, layout: Layout, memory_bytes: int, adapter: Adapter | None
) -> Layout:
    """Return the layout with the rows per forward pass that the trainer would choose for its share `layout.rows`."""
    share = layout.rows
    divisors = [rows for rows in range(share, 0, -1) if share % rows == 0]
    if settings.micro_batch_size != "auto":
        rows = settings.micro_batch_size
    elif layout.device == "cpu":
        rows = next(rows for rows in divisors if rows * config.context <= CPU_TOKENS or rows == 1)
    else:
        rows = 1
        for candidate in divisors:
            tried = replace(layout, rows=candidate, passes=share // candidate)
            if fits(training_memory(config, settings, tried, adapter).peak, memory_bytes):
                rows = candidate
                break
    return replace(layout, rows=rows, passes=share // rows)
