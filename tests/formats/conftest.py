"""A small model of each family, written as the stage `pretrain` writes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.recipe import ModelSettings


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def small_model(family: str, **sizes: int) -> Transformer:
    fields = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 4, "feed_forward": 256, "context": 64} | sizes
    settings = ModelSettings.model_validate({"family": family, **fields})
    torch.manual_seed(3)
    model = Transformer(ModelConfig.from_settings(settings, 300, 0.0))
    model.initialise()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return model.eval()


@pytest.fixture
def pretrain(tmp_path: Path) -> Callable[..., Path]:
    def write(family: str = "modern", **sizes: int) -> Path:
        folder = tmp_path / f"pretrain-{family}"
        weights.save(small_model(family, **sizes), folder / "model")
        (folder / "model" / "tokenizer.json").write_text("{}")
        return folder

    return write
