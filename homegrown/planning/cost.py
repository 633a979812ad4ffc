"""Time and energy of a training run: from a measured probe, or from a GPU's public specifications."""

from dataclasses import dataclass

from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import AnyRecipe, adapter_of, flops_per_token, optimizer_bytes, step_tokens
from homegrown.planning.layouts import Fit
from homegrown.planning.probe import Probed, scaled, work
from homegrown.planning.target import Target

ASSUMED_UTILISATION = 0.4
"""MFU assumed for GPUs that are not at hand; open trainers publish 0.3 to 0.6 of dense bfloat16."""

_FORWARD_SHARE = 1 / 3
"""Share of a validation in the operations of a training step: one part is forward, two are backward."""


@dataclass(frozen=True)
class Cost:
    """Cost of training steps and validations on all devices, without samples, checkpoints and startup."""

    step_seconds: float
    seconds: float
    tokens_per_second: float
    model_flops_utilisation: float
    watts: float
    kilowatt_hours: float
    source: str
    watts_source: str


def measured_cost(recipe: AnyRecipe, config: ModelConfig, target: Target, probed: Probed) -> Cost:
    """Return the cost by a probe on the target."""
    step = scaled(recipe, config, probed)
    counted = probed.watts is not None and target.device == "cpu"
    watts = probed.watts if counted and probed.watts is not None else target.watts * target.count
    sliced = step != probed.step_seconds
    adapter = adapter_of(recipe)
    wider = ", with frozen weights in 16 bits" if adapter and adapter.method == "qlora" else ""
    part = f"{probed.training.batch_size} x {probed.model.context} tokens, {probed.model.layers} layers deep"
    return _cost(
        recipe.training,
        config,
        step,
        flops_per_token=flops_per_token(config, adapter),
        flops=probed.peak_flops * target.count,
        watts=watts,
        source=f"{probed.steps} steps measured"
        + (f" of a slice ({part}), scaled by its operations" if sliced else "")
        + wider,
        watts_source="the processor's own counter" if counted else target.watts_source,
    )


def specified_cost(recipe: AnyRecipe, config: ModelConfig, target: Target, fit: Fit, utilisation: float) -> Cost:
    """Return the cost on GPUs of the table: operations at a share of the peak plus the optimizer's memory traffic."""
    assert target.gpu is not None
    adapter = adapter_of(recipe)
    settings = recipe.training.model_copy(update={"activation_checkpointing": fit.layout.checkpointing})
    peak, parts = target.gpu.teraflops * 1e12, target.count if fit.layout.parallel == "fsdp" else 1
    computing = work(config, settings, target.count, adapter) / (peak * utilisation)
    updating = optimizer_bytes(config, settings, adapter) / parts / (target.gpu.gigabytes_per_second * 1e9)
    return _cost(
        settings,
        config,
        computing + updating,
        flops_per_token=flops_per_token(config, adapter),
        flops=peak * target.count,
        watts=target.watts * target.count,
        source=f"assumed: {utilisation:.0%} of {target.gpu.teraflops:g} TFLOP/s each, communication included",
        watts_source=target.watts_source,
    )


def _cost(
    settings: TrainingSettings,
    config: ModelConfig,
    step_seconds: float,
    *,
    flops_per_token: int,
    flops: float,
    watts: float,
    source: str,
    watts_source: str,
) -> Cost:
    tokens = step_tokens(config, settings)
    speed = tokens / step_seconds
    validations = -(-settings.max_steps // settings.validate_every)
    validating = validations * settings.validation_tokens * _FORWARD_SHARE / speed
    seconds = settings.max_steps * step_seconds + validating
    return Cost(
        step_seconds=step_seconds,
        seconds=seconds,
        tokens_per_second=speed,
        model_flops_utilisation=speed * flops_per_token / flops,
        watts=watts,
        kilowatt_hours=watts * seconds / 3.6e6,
        source=source,
        watts_source=watts_source,
    )
