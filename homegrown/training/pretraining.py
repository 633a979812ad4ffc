"""Pretraining as a training job: the new model, its samples and its result."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.config.recipe import ModelSettings
from homegrown.training.job import TrainingJob
from homegrown.util.errors import UserError

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.data.loader import TokenSplit
    from homegrown.model.transformer import Transformer
    from homegrown.training.checkpoints import Checkpoints
    from homegrown.training.task import Prompt


class Job(TrainingJob):
    """The pretraining of a new model."""

    model: ModelSettings

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "NewModel":
        """See `TrainingJob`."""
        return NewModel(self, train, tokenizer)


class NewModel:
    """A model that is trained from scratch; a `TrainingTask`."""

    def __init__(self, job: Job, train: "TokenSplit", tokenizer: "Tokenizer"):
        """Take the job's settings, for the text `train`.

        Raises:
            UserError: a prompt is longer than the context.
        """
        from homegrown.model.config import ModelConfig
        from homegrown.tokenizer.special import special_ids
        from homegrown.training.initialisation import BIGRAM_LR_SHARE, choose

        self._job, self._train, settings = job, train, job.training
        self.config = ModelConfig.from_settings(job.model, train.vocabulary_size, settings.dropout)
        self.initialisation = choose(settings, self.config, train.tokens)
        self.embedding_lr_share = BIGRAM_LR_SHARE if self.initialisation == "bigrams" else 1.0
        self.flops_per_token = self.config.flops_per_token()
        marks = special_ids(tokenizer)
        self.stop_ids = frozenset({marks.eos})
        self.prompts: Sequence[Prompt] = _prompts(tokenizer, marks.bos, settings.sample_prompts, self.config.context)

    def begin(self) -> "Transformer":
        """See `TrainingTask`."""
        import torch

        from homegrown.model.transformer import Transformer
        from homegrown.training.initialisation import initialize
        from homegrown.util.seeds import derive

        torch.manual_seed(derive(self._job.seed, "initialisation"))
        model = Transformer(self.config)
        initialize(model, self.initialisation, self._train)
        return model

    def keep(self, checkpoints: "Checkpoints", step: int, out: Path) -> None:
        """See `TrainingTask`."""
        from homegrown.training.task import keep_model

        keep_model(checkpoints.model(step, self.config), self._job.tokenizer, out / "model")


def _prompts(tokenizer: "Tokenizer", start: int, prompts: Sequence[str], context: int) -> "list[Prompt]":
    from homegrown.training.task import Prompt

    encoded = [Prompt(prompt, [start, *tokenizer.encode(prompt, add_special_tokens=False).ids]) for prompt in prompts]
    for prompt in encoded:
        if len(prompt.tokens) > context:
            raise UserError(
                f"The prompt {prompt.text[:40]!r} of training.sample_prompts has {len(prompt.tokens)} tokens, more "
                f"than model.context ({context}); shorten it."
            )
    return encoded
