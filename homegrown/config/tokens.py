"""Settings of the stages tokenizer and pack."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from homegrown.config.settings import Amount, LocalPath, Name, Settings


def _distinct_tokens(tokens: list[str]) -> list[str]:
    if len(set(tokens)) < len(tokens):
        raise ValueError("the same token is listed twice")
    return tokens


SpecialTokens = Annotated[
    list[Annotated[str, Field(min_length=2, max_length=100, pattern=r"^\S(.*\S)?$")]], AfterValidator(_distinct_tokens)
]


class TokenizerSettings(Settings):
    """Byte-level BPE."""

    path: LocalPath | None = Field(
        default=None,
        description="Existing tokenizer.json, or its folder, instead of a trained one: a byte-level BPE in Hugging "
        "Face's format, such as GPT-2's, Llama 3's or Qwen's.",
    )
    vocabulary_size: int = Field(
        ge=263,
        le=1_000_000,
        description="Vocabulary size, with 7 special tokens and 256 bytes; ignored with `path`.",
    )
    sample_mb: float = Field(gt=0, description="Maximum text to train and count on, in megabytes; it bounds memory.")
    special: Literal["chat", "guide"] = Field(
        default="chat",
        description="Special tokens of a new vocabulary; chat: those of documents and messages; guide: the guide's "
        "seven, <PAD> <UNK> <CLS> <SEP> <MASK> <BOS> <EOS>.",
    )
    special_tokens: SpecialTokens = Field(
        default=[],
        description="Tokens of your own, such as <|de|>, that text is searched for; after the special ones, or added "
        "to the vocabulary of a base.",
    )

    @model_validator(mode="after")
    def _large_enough(self) -> Self:
        if self.path is None and self.vocabulary_size < 263 + len(self.special_tokens):
            raise ValueError("vocabulary_size must cover 7 special tokens, special_tokens and 256 bytes")
        return self


class Weight(Settings):
    """The weight of a source: a number of tokens, or how often its text is read."""

    tokens: Amount | None = Field(default=None, le=1e15, description="Tokens of the source in a phase.")
    epochs: Amount | None = Field(
        default=None, le=1e6, description="Readings of the source's text; more than 1 repeats it."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_unit(cls, value: object) -> object:
        if isinstance(value, int | float):
            raise ValueError(f"a weight needs its unit, such as {{epochs: {value}}}")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tokens is None) == (self.epochs is None):
            raise ValueError("a weight needs either tokens or epochs")
        return self


class Phase(Settings):
    """A part of the training with its own weights of sources."""

    share: float = Field(default=1, gt=0, le=1, description="Share of the training steps.")
    weights: dict[Name, Weight] = Field(
        min_length=1,
        description="Weight of each source by its name; 0 leaves it out. Training reads the sources in these "
        "proportions, for as many steps as max_steps gives the phase.",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(weight.tokens or weight.epochs for weight in self.weights.values()):
            raise ValueError("all weights of a phase are 0; raise one")
        return self


def _whole(phases: list[Phase] | None) -> list[Phase] | None:
    if phases is not None and abs((total := sum(phase.share for phase in phases)) - 1) > 1e-9:
        raise ValueError(f"the shares of the phases add up to {total:.6g}; make it 1")
    return phases


Mixture = Annotated[Annotated[list[Phase], Field(min_length=1)] | None, AfterValidator(_whole)]


class PackSettings(Settings):
    """Token shards."""

    layout: Literal["contiguous", "best_fit"] = Field(
        default="contiguous",
        description="contiguous: windows of the context over the concatenated documents; best_fit: complete documents "
        "in rows of the context, at most 1% padding, and no attention between documents.",
    )
    mixture: Mixture = Field(
        default=None,
        description="Phases of the training, each with the weights of the sources; null: all text, each document once "
        "per epoch.",
    )


class RowSettings(Settings):
    """The context of the model, which packing needs only for the layout best_fit."""

    context: int | None
