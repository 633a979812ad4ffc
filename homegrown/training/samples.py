"""Completions of fixed prompts during training."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from tokenizers import Tokenizer

from homegrown.inference.generation import generate
from homegrown.inference.sampling import Sampling
from homegrown.model.transformer import Transformer
from homegrown.training.metrics import Sample
from homegrown.training.precision import Precision
from homegrown.training.task import Prompt

_SAMPLING = Sampling(temperature=0.8, top_p=0.95)


class Sampler:
    """Completes prompts with the same random numbers each time, so that only the model differs."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        stop_ids: frozenset[int],
        tokens: int,
        precision: Precision,
        seed: int,
    ):
        """Generate up to `tokens` after each of `prompts`, and stop before a token of `stop_ids`."""
        self._tokenizer, self._prompts, self._stop_ids = tokenizer, prompts, stop_ids
        self._tokens, self._precision, self._seed = tokens, precision, seed

    def __call__(self, model: Transformer, step: int) -> list[Sample]:
        """Return a sample of `model` at `step` for each prompt."""
        if not self._prompts:
            return []
        # Every length of the cache would be compiled anew.
        # torchao's layers do not run under autocast in inference mode.
        products = nullcontext() if self._precision.eight_bits else self._precision.autocast()
        with products, torch.compiler.set_stance("force_eager"):
            written = generate(
                model,
                [prompt.tokens for prompt in self._prompts],
                max_tokens=self._tokens,
                sampling=_SAMPLING,
                seed=self._seed,
                stop_ids=self._stop_ids,
            )
        texts = [self._tokenizer.decode(tokens) for tokens in written]
        return [Sample(step, prompt.text, text) for prompt, text in zip(self._prompts, texts, strict=True)]
