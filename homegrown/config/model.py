"""Settings of a new model's shape."""

from typing import Literal, Self

from pydantic import Field, model_validator

from homegrown.config.settings import Positive, Settings


class ModelSettings(Settings):
    """The shape of the decoder-only transformer."""

    family: Literal["modern", "classic"] = Field(description="modern: Qwen3's layout; classic: the guide's.")
    hidden: Positive = Field(description="Width of the embedding and the residual stream.")
    layers: Positive
    heads: Positive = Field(description="Query heads.")
    kv_heads: Positive = Field(description="Key and value heads; equal to heads for plain multi-head attention.")
    feed_forward: Positive = Field(description="Inner width of the feed-forward layers.")
    context: Positive = Field(description="Context length, in tokens.")
    tied: bool = Field(default=True, description="Tied embedding and output projection; classic never ties them.")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden / heads ({self.hidden // self.heads}) must be even, for rotary positions")
        for name in ("hidden", "feed_forward"):
            if getattr(self, name) % 64:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of 64 for 4-bit weights")
        if self.family == "classic" and self.kv_heads != self.heads:
            raise ValueError("kv_heads must equal heads in the classic family")
        return self
