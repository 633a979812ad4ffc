"""Settings of continued pretraining: what is trained of a base, and the text against forgetting."""

from typing import Literal, Self

from pydantic import Field, model_validator

from homegrown.config.corpus import AnySource
from homegrown.config.settings import Address, Positive, Settings

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class AdaptationSettings(Settings):
    """Continued pretraining: what is trained of a base model."""

    method: Literal["lora", "qlora", "full"] = Field(
        description="lora: an adapter on a frozen base, merged into it at the end; qlora: an adapter on a base in 4 "
        "bits (nf4), for less memory; full: all weights."
    )
    rank: Positive = Field(default=16, description="Rank of the adapter's matrices.")
    alpha: float = Field(default=32, gt=0, description="Scale of the adapter: alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's inputs.")
    targets: list[Projection] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="Projections of each block that get an adapter.",
    )
    embeddings: bool = Field(
        default=False, description="Train embedding and output projection too, beside the adapter."
    )
    context: Positive = Field(description="Tokens per training sequence, at most the base's context.")

    def misfit(self, context: int) -> str | None:
        """Return a message if the training sequences are longer than the `context` of the base."""
        if self.context <= context:
            return None
        return f"adaptation.context is {self.context}, but the base has a context of {context}; lower it"


class ReplaySettings(Settings):
    """Other text mixed into the training text of continued pretraining, against forgetting."""

    sources: list[AnySource] = Field(default=[], description="Other text.")
    conversations: list[Address] = Field(
        default=[],
        description="Files, folders or globs of conversations, rendered in the base's chat template.",
    )
    share: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Share of the training text in bytes; 0.05 after Ibrahim et al. 2024, more for a text unlike the "
        "base's.",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.sources and not self.conversations:
            raise ValueError("replay needs sources or conversations; add some, or set replay to null")
        return self
