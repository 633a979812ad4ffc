"""Small models with weights that are clearly neither 0 nor 1."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer

CONTEXT, VOCABULARY = 48, 211


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    def make(family: str, **changes: Any) -> Transformer:
        fields: dict[str, Any] = {
            "family": family,
            "vocabulary_size": VOCABULARY,
            "hidden": 64,
            "layers": 3,
            "heads": 4,
            "kv_heads": 2 if family == "modern" else 4,
            "head_size": 16,
            "feed_forward": 128,
            "context": CONTEXT,
            "dropout": 0.0,
            "tied": family == "modern",
        }
        torch.manual_seed(5)
        model = Transformer(ModelConfig(**{**fields, **changes}))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2, mean=float(parameter.ndim == 1))
        return model.eval()

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
