"""The recipe of fine-tuning: the settings that the recipe of pretraining (`homegrown.config.recipe`) lacks."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from homegrown.config.adaptation import Projection
from homegrown.config.compute import ComputeSettings
from homegrown.config.export import QuantizationSettings
from homegrown.config.settings import Address, Count, LocalPath, Name, Positive, Settings, Share
from homegrown.config.tokens import SpecialTokens
from homegrown.config.training import Precision, TrainingSettings

Method = Literal["lora", "qlora", "full"]
Shape = Literal["messages", "prompt_completion", "alpaca", "question_answer", "sharegpt"]


def _quotable(system: str) -> str:
    if '"""' in system:
        raise ValueError('system must not contain """, which ends it in a Modelfile of Ollama')
    return system


System = Annotated[str, Field(min_length=1), AfterValidator(_quotable)]


class InstructionSettings(Settings):
    """The conversations to train on."""

    files: list[Address] = Field(
        min_length=1,
        description="Files, folders (recursive) or globs of .jsonl and .json, also compressed (gzip, zstd, bzip2, "
        "xz); relative to the working directory, or at fsspec addresses.",
    )
    shape: Literal["auto"] | Shape = Field(
        default="auto", description="Shape of the records; auto: from the keys of each file's first record."
    )
    held_out: float = Field(default=0.05, gt=0, lt=0.5, description="Share of the questions held out for validation.")
    max_skipped: Share = Field(
        default=0.1, description="Maximum share of malformed records; they are skipped, more are an error."
    )
    system: System | None = Field(
        default=None,
        description="Default system message, for conversations without one; kept in the model and its exports; null: "
        "none.",
    )


class PreferenceSettings(Settings):
    """The pairs of answers to train on by preference."""

    files: list[Address] = Field(
        min_length=1,
        description="Files, folders (recursive) or globs of .jsonl and .json with prompt, chosen and rejected, also "
        "compressed; relative to the working directory, or at fsspec addresses.",
    )
    held_out: float = Field(
        default=0.05, gt=0, lt=0.5, description="Share of the questions held out for validation and the win rate."
    )
    max_skipped: Share = Field(
        default=0.1, description="Maximum share of malformed records; they are skipped, more are an error."
    )
    system: System | None = Field(
        default=None,
        description="Default system message, for prompts without one; kept in the model and its exports; null: that of "
        "the base.",
    )


class ConversationRows(Settings):
    """The properties of model and training that packing conversations depends on.

    `context` is the model's, `sequence_length` that of a row; None: what the conversations need.
    """

    context: Positive
    sequence_length: Positive | None = None


class BaseSettings(Settings):
    """A model trained elsewhere: the folder of a Hugging Face model, a GGUF file, or starter."""

    base: LocalPath


class AddedTokens(Settings):
    """Tokens added to the vocabulary of the base."""

    special_tokens: SpecialTokens = Field(
        default=[],
        description="Tokens of your own, such as <|de|>, added to the vocabulary of the base; text is searched for "
        "them, and their rows are trained.",
    )


class VocabularySettings(AddedTokens):
    """What a base lacks: tokens of your own, and those of our chat template (`chat`)."""

    chat: bool


class FinetuneTraining(TrainingSettings):
    """The training loop of fine-tuning: that of pretraining, with the length of rows and passes over the data."""

    sequence_length: Positive | None = Field(
        default=None,
        description="Tokens of a row of conversations; null: those of the longest conversation, within 256 to 2048 and "
        "the base's context. A row of pairs has both answers, so twice that.",
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="Passes over the conversations or pairs, instead of max_steps; warm-up is then at most a tenth of "
        "them.",
    )
    spike_deviations: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviations above the mean of the last 128 steps at which an update is skipped for its "
        "loss or gradient norm; null: only values that are not finite, so that rare conversations are learned.",
    )

    def steps(self, rows: int) -> int:
        """Return the steps of a training on so many rows."""
        return self.max_steps if self.epochs is None else max(1, math.ceil(self.epochs * rows / self.batch_size))

    def resolved(self, rows: int) -> TrainingSettings:
        """Return the settings of the training loop for so many rows."""
        values = self.model_dump(exclude={"sequence_length", "epochs"})
        if self.epochs is not None:
            steps = self.steps(rows)
            values |= {"max_steps": steps, "warmup_steps": min(self.warmup_steps, steps // 10)}
        return TrainingSettings(**values)


class FinetuneSettings(Settings):
    """The trained part of the base model."""

    method: Method = Field(
        description="lora: an adapter on a frozen base; qlora: an adapter on a base in 4 bits (nf4), for less memory; "
        "full: all weights."
    )
    rank: Positive = Field(default=8, description="Rank of the adapter's matrices.")
    alpha: float = Field(default=32, gt=0, description="Scale of the adapter: alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the adapter's inputs.")
    targets: list[Projection] = Field(
        default=["q_proj", "v_proj"], min_length=1, description="Projections of each block that get an adapter."
    )


class DpoSettings(Settings):
    """Direct preference optimization (Rafailov et al. 2023)."""

    beta: float = Field(
        default=0.1, gt=0, description="Penalty on the distance from the base; larger keeps the model closer to it."
    )
    supervised: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the loss of chosen answers in nats per token, in addition to that of DPO (Pang et al. "
        "2024); with --feedback 1 unless set.",
    )


class ReferenceSettings(Settings):
    """What the log-probabilities of the base depend on: as at the first step of training."""

    method: Method
    precision: Precision


class PairSettings(Settings):
    """Measurements of the base and the trained model on held-out pairs."""

    samples: Positive = Field(description="Held-out prompts to answer.")
    answer_tokens: Positive = Field(description="Maximum tokens of an answer.")


def _regular(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"invalid regular expression ({error})") from error
    return pattern


class AnswerSettings(Settings):
    """Measurements of the base and the fine-tuned model on held-out questions."""

    loss_tokens: Positive | None = Field(
        description="Approximate tokens of held-out conversations for the loss; null: all."
    )
    samples: Positive = Field(description="Held-out questions to answer.")
    answer_tokens: Positive = Field(description="Maximum tokens of an answer.")
    pattern: Annotated[str, AfterValidator(_regular)] | None = Field(
        default=None,
        max_length=200,
        description="Regular expression found in an answer of the right format, such as '#### (-?[0-9.,]+)'; an answer "
        "is right if its last match, or the first group of it, is that of the reference.",
    )


BaseModelName = Annotated[
    LocalPath,
    Field(
        description="Base model: an artifact, such as pretrain, pretrain@3, finetune@1 or a key, the folder of a "
        "Hugging Face model, a GGUF file, or starter (SmolLM2-135M-Instruct).",
        min_length=1,
    ),
]


def _check_tuning(finetuning: FinetuneSettings, training: FinetuneTraining, compute: ComputeSettings) -> None:
    if problem := training.uneven(compute.processes):
        raise ValueError(problem)
    if training.initialisation in ("heads", "bigrams"):
        raise ValueError(
            f"training.initialisation {training.initialisation!r} is for pretraining; fine-tuning starts from its base"
        )
    if finetuning.method == "qlora" and compute.parallel == "fsdp" and compute.processes > 1:
        raise ValueError("finetuning.method 'qlora' is not supported with compute.parallel fsdp; choose ddp")


class FinetuneRecipe(Settings):
    """A fine-tuning run, from a base model and conversations to the comparison of before and after."""

    name: Name
    seed: Count = Field(description="Random seed.")
    base: BaseModelName
    tokenizer: AddedTokens = AddedTokens()
    instructions: InstructionSettings
    finetuning: FinetuneSettings
    training: FinetuneTraining
    quantization: QuantizationSettings
    evaluation: AnswerSettings
    compute: ComputeSettings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_tuning(self.finetuning, self.training, self.compute)
        return self


class DpoRecipe(Settings):
    """A run of DPO, from a base model and pairs of answers to the comparison of before and after."""

    name: Name
    seed: Count = Field(description="Random seed.")
    base: BaseModelName
    tokenizer: AddedTokens = AddedTokens()
    preferences: PreferenceSettings
    dpo: DpoSettings = DpoSettings()
    finetuning: FinetuneSettings
    training: FinetuneTraining
    quantization: QuantizationSettings
    evaluation: PairSettings
    compute: ComputeSettings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_tuning(self.finetuning, self.training, self.compute)
        return self


TuningRecipe = FinetuneRecipe | DpoRecipe
