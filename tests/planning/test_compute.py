"""Operations and tokens, against PyTorch's own counter, the model's weights and the paper's table."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.planning import compute
from homegrown.training.optimizer import optimizers

SHAPE = {"hidden": 64, "layers": 2, "heads": 4, "feed_forward": 192, "context": 32}


@pytest.fixture(params=["modern", "classic"])
def config(request: pytest.FixtureRequest) -> ModelConfig:
    settings = ModelSettings(family=request.param, kv_heads=2 if request.param == "modern" else 4, **SHAPE)
    return ModelConfig.from_settings(settings, 300, 0.0)


def test_matrices_of_a_block_are_the_models(config: ModelConfig) -> None:
    block = Transformer(config).model.layers[0]
    real = [tuple(parameter.shape) for parameter in block.parameters() if parameter.ndim == 2]
    assert sorted(compute.block_matrices(config)) == sorted(real)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_operations_of_an_update(config: ModelConfig, training_settings: TrainingSettings, optimizer: str) -> None:
    settings = training_settings.model_copy(update={"optimizer": optimizer})
    model = Transformer(config)
    model.initialize()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with FlopCounterMode(display=False) as counter:
        for one in optimizers(model, settings):
            one.step()
    assert compute.optimizer_flops(config, settings) == counter.get_total_flops()


def test_recomputing_is_the_blocks_forward_pass(config: ModelConfig) -> None:
    model, tokens = Transformer(config), torch.zeros(3, config.context, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.hidden_states(tokens)
    assert compute.recomputed_flops_per_token(config) * tokens.numel() == counter.get_total_flops()


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [(400e6, 8.0e9), (1e9, 20.2e9), (10e9, 205.1e9), (67e9, 1.5e12), (175e9, 3.7e12)],
)
def test_compute_optimal_tokens_are_those_of_the_papers_table(parameters: float, tokens: float) -> None:
    """Hoffmann et al. 2022, table 3."""
    assert compute.compute_optimal_tokens(int(parameters)) == pytest.approx(tokens, rel=0.12)
