"""A small model with random weights."""

import torch

from homegrown.config.model import ModelSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer

VOCABULARY = 320
CONTEXT = 64


def small_model(family: str = "modern") -> Transformer:
    settings = ModelSettings.model_validate(
        {
            "family": family,
            "hidden": 64,
            "layers": 1,
            "heads": 2,
            "kv_heads": 2,
            "feed_forward": 128,
            "context": CONTEXT,
        }
    )
    torch.manual_seed(4)
    model = Transformer(ModelConfig.from_settings(settings, VOCABULARY, 0.0))
    model.initialize()
    return model.eval()
