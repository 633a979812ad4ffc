"""What a job trains: the model as training begins, what it is asked while it learns, and what remains of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Tokenizer

from homegrown.errors import UserError
from homegrown.files import replacing
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.seeds import derive
from homegrown.tokens.loader import TokenSplit
from homegrown.tokens.special import special_ids
from homegrown.tokens.tokenizer import TOKENIZER_FILE
from homegrown.training.bigrams import RATE_SHARE
from homegrown.training.checkpoints import Checkpoints
from homegrown.training.initialisation import choose, initialise
from homegrown.training.job import Job


@dataclass(frozen=True)
class Prompt:
    """What samples go on from: as it is shown, and its tokens."""

    text: str
    tokens: list[int]


class Subject(Protocol):
    """Decides everything that differs between one kind of training and another.

    `wide_rate_share` is the share of AdamW's rate at which embedding and output learn, `flops_per_token` the
    floating-point operations to train on one token; a sample ends before a token of `stop_ids`.
    """

    config: ModelConfig
    wide_rate_share: float
    flops_per_token: int
    prompts: Sequence[Prompt]
    stop_ids: frozenset[int]

    def begin(self) -> Transformer:
        """Return the model before the first step, on the CPU, the same each time; frozen is what is not trained."""

    def keep(self, checkpoints: Checkpoints, step: int, out: Path) -> None:
        """Write what the checkpoint of `step` has learned to the folder `out`, as the result of training."""


class NewModel:
    """A model that is trained from nothing; a `Subject`."""

    def __init__(self, job: Job, train: TokenSplit, tokenizer: Tokenizer):
        """Take the job's settings, for the text `train`.

        Raises:
            UserError: a prompt is longer than the context.
        """
        self._job, self._train, settings = job, train, job.training
        self.config = ModelConfig.from_settings(job.model, train.vocabulary_size, settings.dropout)
        self.beginning = choose(settings, self.config, train.tokens)
        self.wide_rate_share = RATE_SHARE if self.beginning == "bigrams" else 1.0
        self.flops_per_token = self.config.flops_per_token()
        marks = special_ids(tokenizer)
        self.stop_ids = frozenset({marks.eos})
        self.prompts: Sequence[Prompt] = _documents(tokenizer, marks.bos, settings.sample_prompts, self.config.context)

    def begin(self) -> Transformer:
        """See `Subject`."""
        torch.manual_seed(derive(self._job.seed, "initialisation"))
        model = Transformer(self.config)
        initialise(model, self.beginning, self._train)
        return model

    def keep(self, checkpoints: Checkpoints, step: int, out: Path) -> None:
        """See `Subject`."""
        keep_model(checkpoints.model(step, self.config), self._job.tokenizer, out / "model")


def keep_model(model: Transformer, tokenizer: Path, folder: Path) -> None:
    """Write a whole model, with the tokenizer of the folder `tokenizer`."""
    weights.save(model, folder)
    with replacing(folder / TOKENIZER_FILE) as temporary:
        temporary.write_bytes((tokenizer / TOKENIZER_FILE).read_bytes())


def _documents(tokenizer: Tokenizer, start: int, prompts: Sequence[str], context: int) -> list[Prompt]:
    encoded = [Prompt(prompt, [start, *tokenizer.encode(prompt, add_special_tokens=False).ids]) for prompt in prompts]
    for prompt in encoded:
        if len(prompt.tokens) > context:
            raise UserError(
                f"The prompt {prompt.text[:40]!r} of training.sample_prompts has {len(prompt.tokens)} tokens, more "
                f"than model.context ({context}); shorten it."
            )
    return encoded
