"""What the model writes after fixed prompts while it is trained."""

import torch
from tokenizers import Tokenizer

from homegrown.errors import UserError
from homegrown.model.generation import generate
from homegrown.model.sampling import Sampling
from homegrown.model.transformer import Transformer
from homegrown.recipe import TrainingSettings
from homegrown.tokens.special import special_ids
from homegrown.training.metrics import Sample
from homegrown.training.precision import Precision

_SAMPLING = Sampling(temperature=0.8, top_p=0.95)


class Sampler:
    """Continues the recipe's prompts, with the same random numbers each time, so that only the model differs."""

    def __init__(self, tokenizer: Tokenizer, settings: TrainingSettings, context: int, precision: Precision, seed: int):
        """Encode the prompts.

        Raises:
            UserError: a prompt is longer than the context.
        """
        self._tokenizer, self._settings, self._precision, self._seed = tokenizer, settings, precision, seed
        self._ids = special_ids(tokenizer)
        self._prompts = _encode(tokenizer, self._ids.bos, settings.sample_prompts, context)

    def __call__(self, model: Transformer, step: int) -> list[Sample]:
        """Return what `model` writes at `step`, one sample for each prompt."""
        if not self._prompts:
            return []
        # Every length of the cache would be compiled anew.
        with self._precision.autocast(), torch.compiler.set_stance("force_eager"):
            written = generate(
                model,
                self._prompts,
                max_new_tokens=self._settings.sample_tokens,
                sampling=_SAMPLING,
                seed=self._seed,
                stop_ids={self._ids.eos},
            )
        texts = [self._tokenizer.decode(tokens) for tokens in written]
        return [Sample(step, prompt, text) for prompt, text in zip(self._settings.sample_prompts, texts, strict=True)]


def _encode(tokenizer: Tokenizer, start: int, prompts: list[str], context: int) -> list[list[int]]:
    encoded = [[start, *tokenizer.encode(prompt, add_special_tokens=False).ids] for prompt in prompts]
    for prompt, tokens in zip(prompts, encoded, strict=True):
        if len(tokens) > context:
            raise UserError(
                f"The prompt {prompt[:40]!r} of training.sample_prompts has {len(tokens)} tokens, more than "
                f"model.context ({context}); shorten it."
            )
    return encoded
