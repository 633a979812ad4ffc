"""The recipe of fine-tuning: every setting that pretraining's recipe (`homegrown.config.recipe`) does not have."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from homegrown.config.recipe import (
    Address,
    ComputeSettings,
    Count,
    LocalPath,
    Name,
    Positive,
    QuantizationSettings,
    Settings,
    TrainingSettings,
)

Shape = Literal["messages", "prompt_completion", "alpaca", "question_answer", "sharegpt"]


class InstructionSettings(Settings):
    """The conversations from which a model learns to answer."""

    files: list[Address] = Field(
        min_length=1,
        description="Files, folders (searched through) or globs of .jsonl and .json, also packed with gzip, zstd, "
        "bzip2 or xz; relative to the working directory, or at fsspec addresses.",
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

    @model_validator(mode="after")
    def _quotable(self) -> Self:
        if self.system and '"""' in self.system:
            raise ValueError('system must not hold """, which ends it in a Modelfile of Ollama')
        return self


class ConversationRows(Settings):
    """What packing conversations must know of the model."""

    context: Positive


class BaseSettings(Settings):
    """A model that was trained elsewhere."""

    folder: LocalPath


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class FinetuneSettings(Settings):
    """What of the base model is trained, and by what."""

    method: Literal["lora", "qlora", "full"] = Field(
        description="lora: an adapter, the base stays as it is; qlora: likewise, with the base in 4 bits (nf4) while "
        "it trains, for less memory; full: all weights, which makes a whole model."
    )
    rank: Positive = Field(default=8, description="Rank of an adapter's matrices; full has none.")
    alpha: float = Field(default=32, gt=0, description="An adapter counts alpha / rank times what its matrices give.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Share of an adapter's inputs left out in training.")
    targets: list[Projection] = Field(
        default=["q_proj", "v_proj"], min_length=1, description="The projections of every block that get an adapter."
    )


def _regular(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error})") from error
    return pattern


class AnswerSettings(Settings):
    """What is measured on held-out questions, of the base and of the fine-tuned model."""

    loss_tokens: Positive | None = Field(
        description="About how many tokens of held-out conversations to measure the loss of answers on; null: all."
    )
    samples: Positive = Field(description="Held-out questions to answer.")
    answer_tokens: Positive = Field(description="Most tokens of an answer.")
    pattern: Annotated[str, AfterValidator(_regular)] | None = Field(
        default=None,
        max_length=200,
        description="Regular expression that an answer of the right format matches somewhere, as in '#### -?[0-9]'.",
    )


class FinetuneRecipe(Settings):
    """A whole run, from a trained model and conversations to the table of before and after."""

    name: Name
    seed: Count = Field(description="All randomness comes from it.")
    base: LocalPath = Field(
        description="What to begin with: a model of ours, as in pretrain, pretrain@3, finetune@1 or a key, or the "
        "local folder of a Hugging Face model.",
        min_length=1,
    )
    instructions: InstructionSettings
    finetuning: FinetuneSettings
    training: TrainingSettings
    quantization: QuantizationSettings
    evaluation: AnswerSettings
    compute: ComputeSettings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.training.initialisation in ("heads", "bigrams"):
            raise ValueError(
                f"training.initialisation {self.training.initialisation!r} is for pretraining; fine-tuning begins with "
                "its base"
            )
        if self.finetuning.method == "qlora" and self.compute.parallel == "fsdp" and self.compute.processes > 1:
            raise ValueError(
                "finetuning.method 'qlora' has weights that fsdp cannot share; choose compute.parallel ddp"
            )
        return self
