"""The parts of a transformer block: positions, attention, feed-forward."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from homegrown.model import cpu_ops
from homegrown.model.cache import KVCache, Span
from homegrown.model.config import ModelConfig, RopeScaling
from homegrown.model.documents import attend_in_blocks


def rotary_table(head_size: int, context: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Return cosines and sines of rotary positions (Su et al. 2021), float32 [2, context, head_size].

    In the half-split form of GPT-NeoX, Llama and Qwen: dimensions i and i + head_size / 2 rotate together, so both
    halves of the last axis hold the same angles.
    """
    frequencies = rotary_frequencies(head_size, theta)
    if scaling is not None:
        frequencies = frequencies / frequency_divisors(frequencies, theta, scaling)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies).repeat(1, 2)
    table = torch.stack([angles.cos(), angles.sin()])
    return table if scaling is None else table.mul_(scaling.attention_factor)


def rotary_frequencies(head_size: int, theta: float) -> Tensor:
    """Return the angle of each pair of dimensions per position, before scaling, float32 [head_size / 2]."""
    return theta ** -(torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)


def frequency_divisors(frequencies: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Return the divisor of each rotary frequency, float32 [head_size / 2].

    Between the frequencies that stay and those that are divided by the factor, `llama3` interpolates by the wavelength
    and `yarn` by the index.
    """
    if scaling.kind == "linear":
        return torch.full_like(frequencies, scaling.factor)
    assert scaling.original_context is not None
    if scaling.kind == "llama3":
        turns = frequencies * scaling.original_context / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    else:
        first, last = (
            _yarn_index(turns, theta, scaling, len(frequencies)) for turns in (scaling.beta_fast, scaling.beta_slow)
        )
        low, high = max(math.floor(first), 0), min(math.ceil(last), 2 * len(frequencies) - 1)
        indices = torch.arange(len(frequencies), dtype=torch.float32)
        kept = 1 - (indices - low) / (high - low if high > low else 0.001)
    kept = kept.clamp(0, 1)
    return 1 / ((1 - kept) / scaling.factor + kept)


def _yarn_index(turns: float, theta: float, scaling: RopeScaling, frequencies: int) -> float:
    """Return the index of the frequency that makes this many turns within the original context."""
    assert scaling.original_context is not None
    return frequencies * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys [..., tokens, head_size] by angles [..., tokens, head_size]."""
    if cpu_ops.supports(x):
        return cpu_ops.rotate(x, cosines, sines)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


def sinusoidal_table(hidden: int, context: int) -> Tensor:
    """Return the positions of Vaswani et al. (2017, section 3.5), float32 [context, hidden].

    PE(p, 2i) = sin(p / 10000^(2i / hidden)), PE(p, 2i + 1) = cos of the same angle.
    """
    frequencies = torch.exp(torch.arange(0, hidden, 2, dtype=torch.float32) * (-math.log(10_000.0) / hidden))
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


@dataclass(frozen=True)
class Pass:
    """The inputs that all layers of one forward pass share.

    `cosines` and `sines` are the rotary angles. `cache` and `span` are set while decoding. `mask`, 0 or -inf, is set
    where `cpu_ops` computes attention. Elsewhere `visible` is set if a token does not attend to all earlier ones.
    """

    cosines: Tensor | None = None
    sines: Tensor | None = None
    cache: KVCache | None = None
    span: Span | None = None
    mask: Tensor | None = None
    visible: Tensor | BlockMask | None = None


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type of matrix products on x's device: autocast's, or x's own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class RMSNorm(nn.RMSNorm):
    """Root mean square normalization (Zhang and Sennrich 2019); fused kernels need the gain in the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        if cpu_ops.supports(x):
            return cpu_ops.rms_norm(x, self.weight, self.eps or 0.0)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def norm(config: ModelConfig) -> nn.Module:
    """Return the family's normalization of the residual stream: RMSNorm or LayerNorm (Ba et al. 2016)."""
    kind = RMSNorm if config.family == "modern" else nn.LayerNorm
    return kind(config.hidden, eps=config.norm_eps)


class Attention(nn.Module):
    """Causal self-attention; `modern` with QK-norm (Henry et al. 2020), rotary positions and grouped queries."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        bias = config.family == "classic"
        qkv_bias = bias or config.qkv_bias
        self.layer, self.head_size = layer, config.head_size
        self.grouped = config.heads != config.kv_heads
        self.q_proj = nn.Linear(config.hidden, config.heads * config.head_size, bias=qkv_bias)
        self.k_proj = nn.Linear(config.hidden, config.kv_heads * config.head_size, bias=qkv_bias)
        self.v_proj = nn.Linear(config.hidden, config.kv_heads * config.head_size, bias=qkv_bias)
        self.o_proj = nn.Linear(config.heads * config.head_size, config.hidden, bias=bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.family == "modern" and config.qk_norm:
            self.q_norm = RMSNorm(config.head_size, eps=config.norm_eps)
            self.k_norm = RMSNorm(config.head_size, eps=config.norm_eps)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        """Attend from each token of [batch, tokens, hidden] to positions up to its own."""
        queries = self.q_norm(self._heads(self.q_proj(x))).transpose(1, 2)
        keys = self.k_norm(self._heads(self.k_proj(x))).transpose(1, 2)
        values = self._heads(self.v_proj(x)).transpose(1, 2)
        if now.cosines is not None and now.sines is not None:
            queries = rotate(queries, now.cosines, now.sines)
            keys = rotate(keys, now.cosines, now.sines)
        output: Tensor = self.o_proj(self._mix(queries, keys, values, now).transpose(1, 2).flatten(2))
        return output

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, now: Pass) -> Tensor:
        if now.mask is not None:
            return cpu_ops.causal_attention(queries, keys, values, now.mask)
        if isinstance(now.visible, BlockMask):
            return attend_in_blocks(queries, keys, values, now.visible)
        mask, causal = now.visible, now.visible is None
        if now.cache is not None and now.span is not None:
            keys, values = now.cache.write(self.layer, now.span, keys, values)
            mask, causal = now.span.mask, now.span.causal
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped
        )

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_size)


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.down_proj = nn.Linear(config.feed_forward, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., hidden] to [..., hidden], each token by itself."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class ReluFeedForward(nn.Module):
    """Two linear maps with a ReLU between them (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden, config.feed_forward)
        self.down_proj = nn.Linear(config.feed_forward, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., hidden] to [..., hidden], each token by itself."""
        output: Tensor = self.down_proj(F.relu(self.up_proj(x)))
        return output


class Block(nn.Module):
    """Attention and feed-forward, each after a norm, before dropout, and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = norm(config)
        self.mlp: nn.Module = GatedFeedForward(config) if config.family == "modern" else ReluFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        """Return the residual stream [batch, tokens, hidden] after this block."""
        # Under autocast the stream stays float32; cast here, it is cast once and not for each product.
        dtype = compute_dtype(x)
        mixed: Tensor = x + self.dropout(self.self_attn(self.input_layernorm(x).to(dtype), now))
        transformed: Tensor = self.dropout(self.mlp(self.post_attention_layernorm(mixed).to(dtype)))
        return mixed + transformed
