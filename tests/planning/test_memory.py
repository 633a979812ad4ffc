"""The memory formulas, against what PyTorch holds during real steps of the real model and optimizer."""

from contextlib import nullcontext
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homegrown.config.finetune_recipe import FinetuneSettings
from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.model import cpu_ops, lora, loss
from homegrown.model.config import ModelConfig
from homegrown.model.trained_rows import VOCABULARY
from homegrown.model.transformer import Transformer
from homegrown.planning import memory
from homegrown.planning.compute import Adapter, projections
from homegrown.planning.memory import Layout, saved_for_backward, training_memory
from homegrown.training import muon
from homegrown.training.averaging import WeightAverage
from homegrown.training.optimizer import optimizers
from tests.planning.holding import Live, saved_bytes

SHAPE = {"family": "modern", "hidden": 128, "layers": 2, "heads": 4, "kv_heads": 2, "feed_forward": 320, "context": 64}
SHAPES: list[dict[str, Any]] = [
    {},
    {"family": "classic", "kv_heads": 4},
    {"context": 544},  # too long for attention by hand
    {"family": "classic", "kv_heads": 4, "context": 544},
    {"tied": False},
    {"layers": 1, "hidden": 64, "feed_forward": 768, "kv_heads": 4},
]


def config_of(changes: dict[str, Any], vocabulary: int, dropout: float = 0.0) -> ModelConfig:
    return ModelConfig.from_settings(ModelSettings(**{**SHAPE, **changes}), vocabulary, dropout)


def model_of(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.initialize()
    return model


def forward(model: Transformer, windows: Tensor, value_bytes: int) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16) if value_bytes == 2 else nullcontext():
        return model.loss(windows[:, :-1], windows[:, 1:])


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("value_bytes", [2, 4])
def test_what_the_forward_pass_keeps(changes: dict[str, Any], value_bytes: Any) -> None:
    config = config_of(changes, 512)
    model, windows = model_of(config), torch.zeros(3, config.context + 1, dtype=torch.int64)
    real = saved_bytes(model, lambda: forward(model, windows, value_bytes))
    assert saved_for_backward(config, Layout("cpu", value_bytes, 3, 1)) == pytest.approx(real, rel=0.005)


def test_what_the_forward_pass_keeps_with_dropout() -> None:
    config = config_of({}, 512, dropout=0.1)
    model, windows = model_of(config), torch.zeros(3, config.context + 1, dtype=torch.int64)
    real = saved_bytes(model, lambda: forward(model, windows, 2))
    assert saved_for_backward(config, Layout("cpu", 2, 3, 1)) == pytest.approx(real, rel=0.005)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("changes", [SHAPES[0], SHAPES[1], SHAPES[4]])
@pytest.mark.parametrize(
    ("value_bytes", "rows", "passes", "optimizer", "vocabulary"),
    [
        (2, 6, 2, "muon", 512),
        (2, 6, 1, "adamw", 512),
        (4, 4, 2, "adamw", 300),
        (2, 1, 1, "muon", 512),  # the optimizer's step holds most
        (2, 1, 1, "adamw", 8192),  # the loss
    ],
)
def test_the_most_that_a_step_holds(
    training_settings: TrainingSettings,
    changes: dict[str, Any],
    checkpointing: bool,
    value_bytes: Any,
    rows: int,
    passes: int,
    optimizer: str,
    vocabulary: int,
) -> None:
    config = config_of(changes, vocabulary)
    precision = "bf16" if value_bytes == 2 else "fp32"
    averaging = 0.2 if optimizer == "muon" else None
    changed = {"optimizer": optimizer, "precision": precision, "averaging": averaging}
    settings = training_settings.model_copy(update=changed)
    model, windows = model_of(config), torch.zeros(rows, config.context + 1, dtype=torch.int64)
    model.model.checkpointing = checkpointing
    update = optimizers(model, settings)
    averages = list(WeightAverage(dict(model.named_parameters()), 0.2).tensors.values()) if averaging else []
    with Live(*model.parameters(), *model.buffers(), *averages, windows) as live:
        for _ in range(2):  # the second step has the optimizer's moments from its start
            live.peak = 0
            for _ in range(passes):
                forward(model, windows, value_bytes).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
            for one in update:
                one.step()
                one.zero_grad(set_to_none=True)
    layout = Layout("cpu", value_bytes, rows, passes, checkpointing=checkpointing)
    planned = training_memory(config, settings, layout)
    states = chain.from_iterable(one.state.values() for one in update)
    moments = sum(tensor.nbytes for state in states for tensor in state.values() if tensor.ndim)
    assert planned.weights == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert planned.average == sum(tensor.nbytes for tensor in averages)
    assert planned.gradients == gradients
    assert planned.optimizer == moments
    assert planned.step == pytest.approx(live.peak, rel=0.04 if checkpointing else 0.02)


def test_the_copy_of_a_checkpoint_stays_where_steps_follow_it(training_settings: TrainingSettings) -> None:
    config, layout = config_of({}, 512), Layout("cpu", 4, 2, 2)

    def planned(**changes: Any) -> memory.Memory:
        return training_memory(config, training_settings.model_copy(update=changes), layout)

    between = planned(optimizer="adamw", averaging=0.2)
    assert between.checkpoint == 4 * 4 * config.parameter_count()  # weights, their average, two moments
    assert between.peak == between.step + between.heap + between.checkpoint
    at_the_end = planned(optimizer="adamw", averaging=0.2, checkpoint_every=20)
    assert at_the_end.checkpoint < between.checkpoint
    assert planned(checkpoint_every=20, patience=1).checkpoint == planned().checkpoint > 0
    on_gpu = training_memory(config, training_settings, Layout("cuda", 4, 2, 2))
    assert on_gpu.peak == on_gpu.step


def test_sharding_divides_what_is_held_and_not_what_is_computed(training_settings: TrainingSettings) -> None:
    config, settings = config_of({"layers": 8}, 512), training_settings.model_copy(update={"averaging": 0.2})
    alone, sharded = (training_memory(config, settings, Layout("cuda", 2, 4, 1, devices, "fsdp")) for devices in (1, 4))
    assert sharded.gradients == alone.gradients // 4
    assert sharded.average == alone.average // 4 > 0
    assert sharded.optimizer == alone.optimizer // 4
    assert sharded.activations == alone.activations
    assert sharded.peak < alone.peak


def test_constants_are_those_of_the_model() -> None:
    assert memory.CPU_OPS_CONTEXT == cpu_ops.LONGEST
    assert (memory.CHUNK_TOKENS, memory.ACCELERATOR_CHUNK_TOKENS) == (loss.CHUNK_TOKENS, loss.ACCELERATOR_CHUNK_TOKENS)
    assert (1, memory.PADDED_ROWS) == (loss.ROWS, loss.ACCELERATOR_ROWS)
    assert memory.MUON_BATCH_ELEMENTS == muon.BATCH_ELEMENTS
    assert memory.ACCELERATOR_MUON_BATCH_ELEMENTS == muon.ACCELERATOR_BATCH_ELEMENTS


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("changes", "value_bytes", "rows", "vocabulary", "adapter"),
    [
        ({}, 2, 6, 512, {}),
        ({}, 4, 4, 512, {"targets": ("q_proj", "v_proj")}),
        ({}, 2, 1, 8192, {"rank": 4}),
        ({"tied": False}, 2, 6, 2048, {}),
        ({"family": "classic", "kv_heads": 4}, 2, 6, 512, {"targets": ("q_proj", "v_proj", "up_proj", "down_proj")}),
        ({"context": 544}, 2, 2, 512, {}),
        ({}, 2, 6, 512, {"dropout": 0.05}),
        ({}, 2, 6, 2048, {"embeddings": True}),
    ],
)
def test_the_most_that_a_step_of_an_adapter_holds(
    training_settings: TrainingSettings,
    checkpointing: bool,
    changes: dict[str, Any],
    value_bytes: Any,
    rows: int,
    vocabulary: int,
    adapter: dict[str, Any],
) -> None:
    config = config_of({"layers": 6, **changes}, vocabulary)
    settings = training_settings.model_copy(update={"optimizer": "adamw"})
    given = Adapter(**{"method": "lora", "rank": 16, "dropout": 0.0, "targets": tuple(projections(config)), **adapter})
    model, windows = model_of(config), torch.zeros(rows, config.context + 1, dtype=torch.int64)
    for name, parameter in model.named_parameters():
        trained = parameter.ndim < 2 or (given.embeddings and name in VOCABULARY)
        parameter.data = parameter.data.to(torch.bfloat16 if value_bytes == 2 and not trained else torch.float32)
    tuning = FinetuneSettings(method="lora", rank=given.rank, dropout=given.dropout, targets=[*given.targets])
    lora.attach(model, tuning, [])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or (given.embeddings and name in VOCABULARY))
    model.model.checkpointing = checkpointing
    update = optimizers(model, settings)
    with Live(*model.parameters(), *model.buffers(), windows) as live:
        for _ in range(2):
            live.peak = 0
            for _ in range(2):
                forward(model, windows, value_bytes).backward()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            gradients = sum(parameter.grad.nbytes for parameter in trained if parameter.grad is not None)
            for one in update:
                one.step()
                one.zero_grad(set_to_none=True)
    planned = training_memory(config, settings, Layout("cpu", value_bytes, rows, 2, checkpointing=checkpointing), given)
    assert planned.weights == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert planned.gradients == gradients
    assert planned.step == pytest.approx(live.peak, rel=0.08)
