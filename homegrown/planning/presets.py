"""The hardware that each recipe needs: the guide's hardware table, computed by the formulas of the plan."""

from dataclasses import dataclass

from homegrown.config.recipe import Recipe
from homegrown.planning import gpus
from homegrown.planning.compute import adapter_of, config_of
from homegrown.planning.disk import disk_needed
from homegrown.planning.memory import MARGIN, PROCESS_BYTES, Layout, training_memory
from homegrown.planning.target import value_bytes
from homegrown.planning.text import text_of
from homegrown.store.artifacts import Store

_COMFORTABLE_TOKENS = 8192
"""Tokens per forward pass that keep a GPU busy."""


@dataclass(frozen=True)
class Wants:
    """Bytes that a recipe needs on one GPU, in memory if it trains on the CPU, and on the disk.

    The least GPU memory is for one sequence per pass with activation checkpointing, the recommended one for 8,192
    tokens per pass without it.
    """

    recipe: str
    parameters: int
    gpu_least: int
    gpu_recommended: int
    gpu: str
    """The smallest one of the table with the recommended memory."""
    memory: int
    disk: int
    text_is_known: bool


def wants(recipe: Recipe, store: Store) -> Wants:
    """Return the hardware that a recipe needs."""
    config, settings, adapter = config_of(recipe, store), recipe.training, adapter_of(recipe)
    comfortable = min(settings.batch_size, max(1, _COMFORTABLE_TOKENS // config.context))
    size = value_bytes(settings.precision, narrow=True)
    least, recommended = (
        training_memory(config, settings, Layout("cuda", size, rows, 2, checkpointing=again), adapter).peak
        / (1 - MARGIN)
        for rows, again in ((1, True), (comfortable, False))
    )
    on_cpu = training_memory(config, settings, Layout("cpu", size, 1, 2), adapter).peak + PROCESS_BYTES
    text = text_of(store, recipe, config.vocabulary_size)
    smallest = gpus.smallest(recommended)
    return Wants(
        recipe=recipe.name,
        parameters=config.parameter_count(),
        gpu_least=int(least),
        gpu_recommended=int(recommended),
        gpu=smallest.name if smallest else "several, with FSDP2",
        memory=int(max(on_cpu, recipe.compute.memory_gb * 1e9 + PROCESS_BYTES)),
        disk=disk_needed(recipe, config, text.bytes),
        text_is_known=text.bytes is not None,
    )
