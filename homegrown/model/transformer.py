"""The decoder-only transformer in two families: `modern` (layout and names of Qwen3) and `classic` (the guide's)."""

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from homegrown.model import cpu_ops
from homegrown.model.cache import KVCache
from homegrown.model.config import ModelConfig
from homegrown.model.documents import document_mask
from homegrown.model.layers import Block, Pass, compute_dtype, norm, rotary_table, sinusoidal_table
from homegrown.model.loss import linear_cross_entropy


class _Embedding(nn.Embedding):
    """Skips initialization on the meta device, which would import PyTorch's compiler for a second."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Decoder(nn.Module):
    """Embedding, blocks and final norm; attribute names are those of Qwen3's weights."""

    positions: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False  # activation checkpointing: recompute blocks in the backward pass
        self.embed_tokens = _Embedding(config.vocabulary_size, config.hidden)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("positions", self.position_table(), persistent=False)

    def position_table(self) -> Tensor:
        """Return the family's table: rotary [2, context, head_size] or sinusoidal [context, hidden], float32.

        Always on the CPU: on the meta device the operations would import PyTorch's compiler.
        """
        with torch.device("cpu"):
            if self.config.family == "modern":
                config = self.config
                return rotary_table(config.head_size, config.context, config.rope_theta, config.rope_scaling)
            return sinusoidal_table(self.config.hidden, self.config.context)

    def forward(
        self, tokens: Tensor, cache: KVCache | None, counts: Sequence[int] | None, starts: Tensor | None
    ) -> Tensor:
        """Return the hidden states [batch, tokens, hidden] of `tokens` [batch, tokens], which follow the cache's.

        `starts` [batch, tokens] keeps attention within documents. Absolute positions restart at each document. Rotary
        ones need not, because only distances matter (Su et al. 2021).
        """
        x = self.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()  # the residual stream, also above a frozen embedding in 16 bits
        if self.config.family == "classic":
            x = x * math.sqrt(self.config.hidden) + self.positions[self._absolute(tokens, cache, starts)]
        windows = [self.config.window(layer) for layer in range(self.config.layers)]
        passes = {window: self._pass(x, cache, starts, window) for window in dict.fromkeys(windows)}
        x = self.dropout(x)
        for layer, window in zip(self.layers, windows, strict=True):
            again = self.checkpointing and torch.is_grad_enabled()
            x = checkpoint(layer, x, passes[window], use_reentrant=False) if again else layer(x, passes[window])
        if cache is not None:
            cache.advance([tokens.shape[1]] * len(tokens) if counts is None else counts)
        hidden: Tensor = self.norm(x)
        return hidden

    def _absolute(self, tokens: Tensor, cache: KVCache | None, starts: Tensor | None) -> Tensor:
        """Return the absolute positions of tokens, [tokens] or [batch, tokens]."""
        new = tokens.shape[1]
        if cache is not None:
            return cache.span(new).positions
        places = torch.arange(new, device=tokens.device)
        return places if starts is None else places - starts

    def _pass(self, x: Tensor, cache: KVCache | None, starts: Tensor | None, window: int | None) -> Pass:
        """Return the inputs of the layers with this sliding window, for the embeddings x [batch, tokens, hidden]."""
        new, dtype = x.shape[1], compute_dtype(x)
        span = None if cache is None else cache.span(new, window)
        if starts is None and cache is None and window is not None and new > window:
            starts = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        visible = None if starts is None else document_mask(starts, window)
        mask = None
        if cache is None and new <= cpu_ops.LONGEST and cpu_ops.supports(x):
            mask = cpu_ops.additive(visible, dtype) if isinstance(visible, Tensor) else cpu_ops.causal_mask(new, dtype)
        if self.config.family == "classic":
            return Pass(cache=cache, span=span, mask=mask, visible=visible)
        table = self.positions[:, slice(new) if span is None else span.positions].to(dtype)
        cosines, sines = table if span is None else table[:, :, None]
        return Pass(cosines, sines, cache, span, mask, visible)


class Transformer(nn.Module):
    """A language model: maps tokens to logits of the next token.

    Dropout acts on the embedding and on each sub-layer's output (Vaswani et al. 2017, section 5.4), but not on
    attention weights, which would rule out fused attention kernels.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.compiled = False  # compute the loss with `torch.compile` where that is faster
        self.model = Decoder(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden, config.vocabulary_size, bias=config.family == "classic")

    def initialize(self) -> None:
        """Initialize all weights from torch's global random state.

        Matrices are normal with standard deviation 0.02, divided by sqrt(2 x layers) for those that write to the
        residual stream (Radford et al. 2019, GPT-2). Biases are 0 and gains 1. An untied output projection of the
        modern family is 0, so training starts with all tokens equally likely. The classic family's embedding has
        standard deviation hidden^-0.5: multiplied by sqrt(hidden), it has the scale of the sinusoids (Vaswani et al.
        2017).
        """
        embedding = 0.02 if self.config.family == "modern" else self.config.hidden**-0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif name.endswith("embed_tokens.weight"):
                nn.init.normal_(parameter, std=embedding)
            elif name.endswith("lm_head.weight") and self.config.family == "modern":
                nn.init.zeros_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers))
            else:
                nn.init.normal_(parameter, std=0.02)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def output_weight(self) -> Tensor:
        """The output projection [vocabulary, hidden]; the embedding itself if they are tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def output_bias(self) -> Tensor | None:
        """The output projection's bias [vocabulary] in the classic family, otherwise None."""
        return None if self.config.tied else self.lm_head.bias

    def forward(self, tokens: Tensor, cache: KVCache | None = None, counts: Sequence[int] | None = None) -> Tensor:
        """Return logits [batch, tokens, vocabulary] for int64 `tokens` [batch, tokens].

        With a cache, `tokens` continue its sequences and are added to it. `counts` holds the number of real tokens of
        rows that are padded on the right; logits at padding are meaningless.
        """
        return self.logits(self.hidden_states(tokens, cache, counts))

    def hidden_states(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        counts: Sequence[int] | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states [batch, tokens, hidden] after the final norm, the input of `logits`.

        Arguments are those of `forward`, and `starts` of `loss`.
        """
        if tokens.shape[1] > self.config.context:
            raise ValueError(f"{tokens.shape[1]} tokens exceed the context of {self.config.context}")
        hidden: Tensor = self.model(tokens, cache, counts, starts)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocabulary] of hidden states [..., hidden]."""
        return F.linear(hidden, self.output_weight, self.output_bias)

    def set_context(self, context: int) -> None:
        """Change the context, which weights do not depend on: positions are computed."""
        self.config = self.model.config = dataclasses.replace(self.config, context=context)
        self.model.positions = self.model.position_table().to(self.model.positions.device)

    def loss(self, tokens: Tensor, targets: Tensor, starts: Tensor | None = None) -> Tensor:
        """Return the summed cross-entropy in nats (float32 scalar) of int64 `targets` [batch, tokens].

        `loss.IGNORED` targets are skipped. `starts`, int64 [batch, tokens], is given if rows hold several documents: it
        is the index in the row where each token's document starts. Logits are computed in chunks.
        """
        hidden = self.hidden_states(tokens, starts=starts)
        flat = hidden.flatten(0, 1), self.output_weight, self.output_bias, targets.flatten()
        return linear_cross_entropy(*flat, compiled=self.compiled)
