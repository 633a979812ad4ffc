"""The peers of `homegrown`'s training: nanoGPT's recipe, transformers' Llama in a plain loop, and nanochat.

    python -m benchmarks.training_peers

fetches nanochat, of which nothing is part of this project, into `.peers` in the project's root.
"""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown.training.precision import choose_precision

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS = 4096, 256, 256, 4, 4

NANOCHAT = Path(__file__).parents[1] / ".peers" / "nanochat"
REPOSITORY, COMMIT = "https://github.com/karpathy/nanochat", "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd"


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


class NanochatLoop:
    """nanochat's model and optimizer, with the rates, decay and schedules of its `scripts/base_train.py`.

    Its dial gives 4 layers a width of 256; heads of 64 and full attention are those of its script for CPUs, and so is
    the type of its products, unless the processor has bf16, as with ours. Its rules scale rates by the root of the
    batch and decay by the tokens; `rate` multiplies all rates, because the rules were made for larger batches.
    Schedules follow the share of the time that is gone. The model is not compiled, as with all; the optimizer compiles
    its own steps, before its clock runs.
    """

    def __init__(self, rate: float, batch: int, tokens: float):
        if choose_precision("auto", "cpu").dtype == torch.bfloat16:
            os.environ["NANOCHAT_DTYPE"] = "bfloat16"
        sys.path.insert(0, str(NANOCHAT))
        gpt = importlib.import_module("nanochat.gpt")
        shape = {"n_layer": LAYERS, "n_head": HEADS, "n_kv_head": HEADS, "n_embd": WIDTH, "window_pattern": "L"}
        self.model: Any = gpt.GPT(gpt.GPTConfig(sequence_len=CONTEXT, vocab_size=VOCABULARY, **shape))
        ratio, reference = batch * CONTEXT / 2**19, 12 * (12 * 12 * 768**2 + 32_768 * 768)
        self._decay = 0.28 * math.sqrt(ratio) * reference / tokens
        self._rate = rate * math.sqrt(ratio)
        for warm in (True, False):
            self.model.init_weights()
            self.optimizer = self.model.setup_optimizer(
                unembedding_lr=0.008 * self._rate,
                embedding_lr=0.3 * self._rate,
                scalar_lr=0.5 * self._rate,
                matrix_lr=0.02 * self._rate,
            )
            self.steps = 0
            if warm:
                self.step(torch.zeros(batch, CONTEXT + 1, dtype=torch.int64), 0.0)

    def step(self, windows: Tensor, gone: float) -> None:
        """Train on int64 [rows, context + 1] when the share `gone` of the time has passed."""
        left = 1 - min(1.0, gone)
        slowing = min(1.0, left / 0.65)
        share = (self.steps + 1) / 40 if self.steps < 40 else slowing + (1 - slowing) * 0.05
        warm = min(1.0, self.steps / 400)
        momentum = 0.85 + 0.12 * warm if warm < 1 else 0.9 + 0.07 * slowing
        self.steps += 1
        self.model(windows[:, :-1].contiguous(), windows[:, 1:].contiguous()).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = self._decay * 0.5 * (1 + math.cos(math.pi * (1 - left)))
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def nats(self, windows: Tensor) -> Tensor:
        """Return the summed loss of all next tokens."""
        loss: Tensor = self.model(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), loss_reduction="sum")
        return loss


def fetch() -> None:
    """Clone nanochat at the commit with which ours is compared."""
    NANOCHAT.mkdir(parents=True, exist_ok=True)
    for arguments in (["init", "--quiet"], ["fetch", "--quiet", "--depth=1", REPOSITORY, COMMIT]):
        subprocess.run(["git", *arguments], cwd=NANOCHAT, check=True)
    subprocess.run(["git", "checkout", "--quiet", "--force", COMMIT], cwd=NANOCHAT, check=True)


if __name__ == "__main__":
    fetch()
    print(f"nanochat is in {NANOCHAT.relative_to(NANOCHAT.parents[1])}.")
