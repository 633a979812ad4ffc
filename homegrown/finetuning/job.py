"""The training task of fine-tuning: an adapter on a base model, or all its weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.config.finetune_recipe import FinetuneSettings
from homegrown.training.job import TrainingJob
from homegrown.util.errors import UserError

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.data.loader import TokenSplit
    from homegrown.finetuning.questions import Question
    from homegrown.model.transformer import Transformer
    from homegrown.tokenizer.chat import Chat
    from homegrown.training.checkpoints import Checkpoints
    from homegrown.training.next_token import Objective
    from homegrown.training.task import Prompt

ADAPTER, MODEL = "adapter", "model"
HELD_OUT_PROMPTS = 2


class FinetuneJob(TrainingJob):
    """A fine-tuning job; `base`: folder of the base model, `packed`: folder of the packed conversations."""

    base: Path
    finetuning: FinetuneSettings

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "TunedModel":
        """See `TrainingJob`."""
        return TunedModel(self, train, tokenizer)


class TunedModel:
    """A base model trained on conversations; a `TrainingTask`."""

    sequences_in_a_row = 1
    """Sequences as long as the context that a row may have."""

    def __init__(self, job: FinetuneJob, train: "TokenSplit", tokenizer: "Tokenizer"):
        """Check the base.

        Raises:
            UserError: it is damaged, or does not match the conversations or the settings.
        """
        from homegrown.finetuning.base_model import flops_per_token
        from homegrown.model import weights
        from homegrown.tokenizer.chat import load_chat

        self._job = job
        self._base = weights.load_config(job.base / "config.json")
        if train.context is None or train.context > self.sequences_in_a_row * self._base.context:
            raise UserError(
                f"The data are packed in rows of {train.context} tokens, but the base model's context is "
                f"{self._base.context}; run the stages again."
            )
        self.config = dataclasses.replace(self._base, context=train.context, dropout=job.training.dropout)
        self.embedding_lr_share = 1.0
        self.flops_per_token = flops_per_token(self.config, job.finetuning)
        chat = load_chat(job.base, tokenizer)
        self.stop_ids = chat.stop_ids
        self._new_tokens = chat.new_tokens
        self.prompts: Sequence[Prompt] = self._prompts(chat)

    def begin(self) -> "Transformer":
        """See `TrainingTask`."""
        from homegrown.finetuning.base_model import load_base
        from homegrown.util.seeds import derive

        job = self._job
        return load_base(
            job.base,
            self.config,
            job.finetuning,
            job.training,
            device=job.device,
            seed=derive(job.seed, "adapter"),
            tokens=self._new_tokens,
        )

    def objective(self, model: "Transformer") -> "Objective":
        """See `TrainingTask`."""
        from homegrown.training.next_token import NextToken

        return NextToken(model)

    def keep(self, checkpoints: "Checkpoints", step: int, out: Path) -> None:
        """See `TrainingTask`: writes `adapter/` in peft's format, or `model/` with the method `full`."""
        from homegrown.model import lora
        from homegrown.model.transformer import Transformer
        from homegrown.training.task import keep_model

        if self._job.finetuning.method == "full":
            keep_model(checkpoints.fill(step, Transformer(self._base)), self._job.tokenizer, out / MODEL)
        else:
            lora.save(checkpoints.fill(step, self.begin()), self._job.finetuning, out / ADAPTER)

    def questions(self, most: int) -> "list[Question]":
        """Return up to `most` held-out questions, for samples."""
        from homegrown.finetuning.questions import held_out

        return held_out(self._job.packed, most)

    def _prompts(self, chat: "Chat") -> "list[Prompt]":
        from homegrown.tokenizer.chat import Message
        from homegrown.training.task import Prompt

        questions = self.questions(HELD_OUT_PROMPTS)
        prompts = [Prompt(one.text, chat.encode(one.messages, reply=True, tools=one.tools)) for one in questions]
        for text in self._job.training.sample_prompts:
            prompts.append(Prompt(text, chat.encode([Message("user", text)], reply=True)))
        for prompt in prompts:
            if len(prompt.tokens) > self.config.context:
                raise UserError(
                    f"training.sample_prompts: {prompt.text[:40]!r} has {len(prompt.tokens)} tokens, more than the "
                    f"context of {self.config.context}; shorten it."
                )
        return prompts
