"""The configuration of a transformer, and the counts that follow from it."""

import math
from dataclasses import dataclass
from typing import Literal, Self

from homegrown.config.model import ModelSettings


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary positions reach beyond the context of pretraining; names and meanings are those of `transformers`.

    `linear` divides all frequencies by `factor` (Chen et al. 2023). `llama3` divides the low ones (Llama 3.1). `yarn`
    divides the low ones and multiplies queries and keys by `attention_factor` (Peng et al. 2023).
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_context: int | None = None
    """Context of pretraining, in tokens; `linear` does not use it."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """Return the usual `attention_factor` of `yarn` (Peng et al. 2023, section 3.4)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides which tensors a model has and what it computes.

    `modern` has the layout of Qwen3 and Llama. `classic` is the transformer of Vaswani et al. (2017) with pre-norm.
    """

    family: Literal["modern", "classic"]
    vocabulary_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    context: int
    dropout: float
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tied: bool
    qk_norm: bool = True
    """Whether a `modern` model normalizes queries and keys, as Qwen3 does and Llama does not."""
    qkv_bias: bool = False
    """Whether the projections of a `modern` model to queries, keys and values have biases, as in Qwen2."""
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    """Most tokens that a query attends to, itself included, as in Mistral; None: all."""
    full_attention_layers: tuple[int, ...] = ()
    """Layers that ignore `sliding_window`."""

    @classmethod
    def from_settings(cls, settings: ModelSettings, vocabulary_size: int, dropout: float) -> Self:
        """Return the configuration of a recipe's settings, a vocabulary size and a dropout rate."""
        return cls(
            family=settings.family,
            vocabulary_size=vocabulary_size,
            hidden=settings.hidden,
            layers=settings.layers,
            heads=settings.heads,
            kv_heads=settings.kv_heads,
            head_size=settings.hidden // settings.heads,
            feed_forward=settings.feed_forward,
            context=settings.context,
            dropout=dropout,
            tied=settings.tied and settings.family == "modern",
        )

    def window(self, layer: int) -> int | None:
        """Return the sliding window of a layer, or None if it attends to all earlier tokens."""
        return None if layer in self.full_attention_layers else self.sliding_window

    def parameter_count(self) -> int:
        """Return the exact number of parameters; a tied matrix counts once."""
        embedding = self.vocabulary_size * self.hidden
        output = 0 if self.tied else embedding
        if self.family == "modern":
            gains = self.layers * (2 * self.hidden + 2 * self.head_size * self.qk_norm) + self.hidden
            biases = self.layers * (self.heads + 2 * self.kv_heads) * self.head_size * self.qkv_bias
            return embedding + output + self._block_matrices() + gains + biases
        attention_biases = self.heads * self.head_size + 2 * self.kv_heads * self.head_size + self.hidden
        feed_forward_biases = self.feed_forward + self.hidden
        norms = 2 * 2 * self.hidden
        vectors = self.layers * (attention_biases + feed_forward_biases + norms) + 2 * self.hidden
        return embedding + output + self.vocabulary_size + self._block_matrices() + vectors

    def flops_per_token(self, *, frozen: bool = False) -> int:
        """Return the floating-point operations to train on one token at full context.

        6 for each weight of a matrix product (2 forward, 4 backward; 2 backward if it is `frozen`, below an adapter)
        and 12 x layers x width x context for attention (Chowdhery et al. 2022, PaLM, appendix B), where a sliding
        window replaces the context.
        The output projection counts, the embedding lookup does not.
        """
        matrices = self._block_matrices() + self.vocabulary_size * self.hidden
        attended = sum(min(self.context, self.window(layer) or self.context) for layer in range(self.layers))
        return (4 if frozen else 6) * matrices + 12 * attended * self.heads * self.head_size

    def _block_matrices(self) -> int:
        queries_and_output = 2 * self.hidden * self.heads * self.head_size
        keys_and_values = 2 * self.hidden * self.kv_heads * self.head_size
        projections = 3 if self.family == "modern" else 2
        feed_forward = projections * self.hidden * self.feed_forward
        return self.layers * (queries_and_output + keys_and_values + feed_forward)
