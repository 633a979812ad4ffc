"""The plan of a recipe: its model, text, memory, time and energy."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.corpus.sources import finding_once
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import (
    Adapter,
    AnyRecipe,
    adapter_of,
    compute_optimal_tokens,
    config_of,
    flops_per_token,
    optimizer_flops,
    step_tokens,
    trained_parameters,
)
from homegrown.planning.cost import ASSUMED_UTILISATION, Cost, measured_cost, specified_cost
from homegrown.planning.fit import STAGES, check_fit
from homegrown.planning.history import Past, past_runs
from homegrown.planning.layouts import Fit, fits, layouts
from homegrown.planning.memory import LATER_BYTES, PROCESS_BYTES, Layout, training_memory
from homegrown.planning.probe import Probed, probe
from homegrown.planning.target import Target
from homegrown.planning.text import MixedSource, Text, conversations_of, mixed_sources, text_of
from homegrown.store.artifacts import Store

GUIDE = {
    (768, 12, 3072, 512): 110e6,
    (1024, 24, 4096, 1024): 700e6,
    (2048, 32, 8192, 2048): 1.3e9,
}
"""The guide's table: width, layers, feed-forward and context, and the parameters that the guide states."""

_PROBE_SECONDS = 5.0
_STEP_SECONDS = 2.0
_PAST_RUNS = 3


@dataclass(frozen=True)
class Plan:
    """The plan of a recipe.

    `flops` counts the operations of the model and the optimizer's matrix products over all steps. `cost` is None if
    nothing was measured, `compute_optimal_tokens` if the model starts from a base.
    """

    recipe: str
    family: str
    parameters: int
    trained_parameters: int
    adapter: Adapter | None
    guide_parameters: float | None
    flops_per_token: int
    steps: int
    sequence_length: int
    step_tokens: int
    tokens: int
    flops: float
    compute_optimal_tokens: int | None
    text: Text
    epochs: float | None
    mixture: list[MixedSource]
    target: Target
    fits: list[Fit]
    cost: Cost | None
    base_memory_bytes: int
    """Memory of a training process beside `fits`: measured, or usual for a CPU; 0 on a GPU that is not measured."""
    memory_bytes: int
    """Memory of a training process: that of the recipe's layout, and `base_memory_bytes`."""
    past: list[Past]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values, times in ISO 8601."""
        values = asdict(self)
        for fit, one in zip(values["fits"], self.fits, strict=True):
            fit["memory"]["peak"] = one.memory.peak
        for run in values["past"]:
            run["started"] = run["started"].isoformat()
        return values


@finding_once()
def make_plan(
    recipe: AnyRecipe, store: Store, target: Target, *, measure: bool = True, utilisation: float | None = None
) -> Plan:
    """Return the plan of a recipe on a target: this machine, measured on request, or GPUs at an assumed `utilisation`.

    Raises:
        UserError: the devices cannot share the batch of the recipe, a stage surely fails, or its base
            or its conversations are missing.
    """
    past = past_runs(store, recipe, _PAST_RUNS)
    config = config_of(recipe, store)
    if isinstance(recipe, FinetuneRecipe):
        conversations = conversations_of(store, recipe, config)
        text, config = conversations.text, replace(config, context=conversations.length)
        once: int | None = conversations.rows * conversations.length
        recipe = recipe.model_copy(update={"training": recipe.training.resolved(conversations.rows)})
    else:
        check_fit(recipe, store, STAGES)
        text = text_of(store, recipe, config.vocabulary_size)
        once = text.tokens
    settings, adapter = recipe.training, adapter_of(recipe)
    ways = layouts(recipe, config, target.device, target.value_bytes, target.count, target.memory_bytes)
    probed = None
    cost = None
    if target.gpu is not None:
        # The recipe's own layout if it fits, else the first one that fits.
        way = next((way for way in ways if way.fits), ways[0])
        cost = specified_cost(recipe, config, target, way, utilisation or ASSUMED_UTILISATION)
    elif measure:
        probed = probe_fitting(recipe, config, target)
        cost = measured_cost(recipe, config, target, probed)
    base = PROCESS_BYTES if target.device == "cpu" else 0
    if probed:
        base = _base_memory(recipe, config, target, probed)
    tokens = step_tokens(config, settings) * settings.max_steps
    shape = (config.hidden, config.layers, config.feed_forward, config.context)
    return Plan(
        recipe=recipe.name,
        family=config.family,
        parameters=config.parameter_count(),
        trained_parameters=trained_parameters(config, adapter),
        adapter=adapter,
        guide_parameters=GUIDE.get(shape),
        flops_per_token=flops_per_token(config, adapter),
        steps=settings.max_steps,
        sequence_length=config.context,
        step_tokens=step_tokens(config, settings),
        tokens=tokens,
        flops=float(tokens * flops_per_token(config, adapter) + settings.max_steps * optimizer_flops(config, settings)),
        compute_optimal_tokens=None if recipe.base else compute_optimal_tokens(config.parameter_count()),
        text=text,
        epochs=tokens / once if once else None,
        mixture=[] if isinstance(recipe, FinetuneRecipe) else mixed_sources(recipe, text, tokens),
        target=target,
        fits=ways,
        cost=cost,
        base_memory_bytes=base,
        memory_bytes=base + ways[0].memory.peak,
        past=past,
    )


def _base_memory(recipe: AnyRecipe, config: ModelConfig, target: Target, probed: Probed) -> int:
    """Return what the measured process took beside its steps: PyTorch, its libraries and caches.

    Some are loaded by the first steps only, and some by what follows them.
    """
    if probed.kind != "cpu":
        return probed.base_memory_bytes
    share = probed.training.batch_size // target.count
    layout = Layout(
        target.device,
        target.value_bytes,
        rows=probed.micro_batch_size,
        passes=max(1, share // probed.micro_batch_size),
        devices=target.count,
        parallel=recipe.compute.parallel,
        checkpointing=probed.training.activation_checkpointing,
    )
    measured = ModelConfig.from_settings(probed.model, config.vocabulary_size, config.dropout)
    tensors = training_memory(measured, probed.training, layout, adapter_of(recipe)).peak
    return max(probed.base_memory_bytes, probed.peak_memory_bytes - tensors) + LATER_BYTES


def probe_fitting(recipe: AnyRecipe, config: ModelConfig, target: Target) -> Probed:
    """Measure a few steps with as many layers as fit the device, one sequence per pass."""
    alone = Layout(
        target.device,
        target.value_bytes,
        rows=1,
        passes=2,
        devices=target.count,
        parallel=recipe.compute.parallel,
        checkpointing=recipe.training.activation_checkpointing,
    )
    layers = config.layers
    while layers > 1:
        needed = training_memory(replace(config, layers=layers), recipe.training, alone, adapter_of(recipe)).peak
        if fits(needed, target.memory_bytes):
            break
        layers //= 2
    return probe(
        recipe,
        config,
        target.device,
        seconds=_PROBE_SECONDS,
        step_seconds=_STEP_SECONDS,
        layers=layers,
    )
