"""The peers of `homegrown`'s training: nanoGPT's recipe, and transformers' Llama in a plain loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown.training.precision import choose_precision

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS = 4096, 256, 256, 4, 4


class _Block(nn.Module):
    """GPT-2's block: attention and a GELU feed-forward of four times the width, each after a LayerNorm without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH, bias=False)
        self.before_feed_forward = nn.LayerNorm(WIDTH, bias=False)
        self.heads = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.mix = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        queries, keys, values = (
            part.view(batch, tokens, HEADS, -1).transpose(1, 2)
            for part in self.heads(self.before_attention(x)).split(WIDTH, 2)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))
        transformed: Tensor = x + self.narrow(F.gelu(self.widen(self.before_feed_forward(x))))
        return transformed


class GPT2Style(nn.Module):
    """GPT-2 (Radford et al. 2019) as nanoGPT trains it: no biases, learned positions, tied embeddings, no dropout.

    Weights are normal with 0.02, those that write to the residual stream with 0.02 / sqrt(2 x layers).
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("mix.weight", "narrow.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [batch, tokens, vocabulary]."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def llama() -> nn.Module:
    """Return transformers' Llama in the shape of our `tiny`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


@dataclass
class PlainLoop:
    """AdamW, autocast, gradients clipped at 1; the rate warms up over 100 steps, then decays to a tenth as a cosine.

    These are nanoGPT's published settings (weight decay 0.1, betas 0.9 and 0.99 for small models). Autocast is to bf16
    where the processor has it, as with ours. The cosine follows the share of the time that is gone, so that it ends
    with the budget whatever the machine does meanwhile.
    """

    model: nn.Module
    logits: Callable[[Tensor], Tensor]
    rate: float

    def __post_init__(self) -> None:
        matrices = [weight for weight in self.model.parameters() if weight.ndim >= 2]
        vectors = [weight for weight in self.model.parameters() if weight.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.precision = choose_precision("auto", "cpu")
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.99), fused=True)
        self.steps = 0

    def step(self, windows: Tensor, gone: float) -> None:
        """Train on int64 [rows, context + 1] when the share `gone` of the time has passed."""
        self.steps += 1
        share = min(self.steps / 100, 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, gone))))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share
        torch.autograd.backward(self.nats(windows) / windows[:, 1:].numel())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def nats(self, windows: Tensor) -> Tensor:
        """Return the summed loss of all next tokens."""
        with self.precision.autocast():
            logits = self.logits(windows[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="sum")
