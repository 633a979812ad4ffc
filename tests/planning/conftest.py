"""The smallest settings that train, and one thread."""

import pytest
import torch

from homegrown.config.training import TrainingSettings


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def training_settings() -> TrainingSettings:
    return TrainingSettings(
        max_steps=20,
        batch_size=4,
        micro_batch_size=2,
        learning_rate=1e-3,
        warmup_steps=2,
        weight_decay=0.1,
        dropout=0.0,
        precision="fp32",
        validate_every=10,
        validation_tokens=256,
        checkpoint_every=10,
        sample_every=10,
        sample_prompts=[],
    )
