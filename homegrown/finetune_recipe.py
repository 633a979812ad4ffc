"""The recipe of fine-tuning: every setting that pretraining's recipe (`homegrown.recipe`) does not have."""

from typing import Literal

from pydantic import Field

from homegrown.recipe import LocalPath, Positive, Settings

Shape = Literal["messages", "prompt_completion", "alpaca", "question_answer", "sharegpt"]


class InstructionSettings(Settings):
    """The conversations from which a model learns to answer."""

    files: list[LocalPath] = Field(
        min_length=1,
        description="Files, folders (searched through) or globs of .jsonl and .json, also packed with gzip, zstd, "
        "bzip2 or xz; relative to the working directory.",
    )
    shape: Literal["auto"] | Shape = Field(
        default="auto", description="How every file writes a conversation; auto: told by the keys of its first one."
    )
    held_out: float = Field(
        default=0.05, gt=0, lt=0.5, description="Share of the questions that are kept from training, to measure it by."
    )
    system: str | None = Field(
        default=None,
        min_length=1,
        description="What the model is told before a conversation that has no system message of its own, in training "
        "and, as part of the model and of its exports, ever after; null: nothing.",
    )


class ConversationRows(Settings):
    """What packing conversations must know of the model."""

    context: Positive
