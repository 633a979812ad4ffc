"""The task of a job: the initial model, the prompts of its samples, and its result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.loading import copy_tokenizer
from homegrown.training.checkpoints import Checkpoints
from homegrown.training.next_token import Objective


@dataclass(frozen=True)
class Prompt:
    """The prompt of a sample: its text and its tokens."""

    text: str
    tokens: list[int]


class TrainingTask(Protocol):
    """Everything that differs between one kind of training and another.

    `embedding_lr_share` is the share of AdamW's learning rate for embedding and output projection, `flops_per_token`
    the floating-point operations to train on one token; a sample ends before a token of `stop_ids`.
    """

    config: ModelConfig
    embedding_lr_share: float
    flops_per_token: int
    prompts: Sequence[Prompt]
    stop_ids: frozenset[int]

    def begin(self) -> Transformer:
        """Return the model before the first step, on the CPU, the same each time, with its untrained weights frozen."""

    def objective(self, model: Transformer) -> Objective:
        """Return what the training of this model minimizes."""

    def keep(self, checkpoints: Checkpoints, step: int, out: Path) -> None:
        """Write the weights of the checkpoint of `step` to the folder `out`, as the result of training."""


def keep_model(model: Transformer, tokenizer: Path, folder: Path) -> None:
    """Write a complete model, with the tokenizer of the folder `tokenizer`."""
    weights.save(model, folder)
    copy_tokenizer(tokenizer, folder)
