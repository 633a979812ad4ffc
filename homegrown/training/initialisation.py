"""How a model's weights begin: at random, with heads that look back, or with the bigrams of the text as well."""

from typing import Literal

from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.recipe import TrainingSettings
from homegrown.tokens.loader import TokenSplit
from homegrown.training import bigrams, previous_tokens

Beginning = Literal["random", "heads", "bigrams"]
MOST_EPOCHS = 1.5
"""Times that a text is read, up to which its bigrams serve."""


def choose(settings: TrainingSettings, config: ModelConfig, tokens: int) -> Beginning:
    """Return how a model begins that is trained on a text of so many `tokens`.

    With `auto` a modern model has heads that look back; and bigrams where its embedding and output are two matrices and
    it reads its text hardly more than once, for a table of the very text that it reads again and again says little new,
    and makes it trust pairs that occur by chance. benchmarks/results/sweeps.md has the figures.
    """
    if settings.initialisation != "auto":
        return settings.initialisation
    if config.family == "classic":
        return "random"
    epochs = settings.max_steps * settings.batch_size * config.context / tokens
    return "heads" if config.tied or epochs > MOST_EPOCHS else "bigrams"


def initialise(model: Transformer, beginning: Beginning, text: TokenSplit) -> None:
    """Draw all weights anew from torch's global random state, on the CPU, and let them begin so."""
    model.initialise()
    if beginning == "bigrams":
        direction = bigrams.initialise(model, bigrams.Bigrams.of(text))
        previous_tokens.look_back(model, direction)
    if beginning == "heads":
        previous_tokens.look_back(model, previous_tokens.share_a_direction(model))
