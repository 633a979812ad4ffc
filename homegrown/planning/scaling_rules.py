"""The rules of `homegrown run auto`: the settings that follow from a model's size, its tokens and its text.

Measured with `python -m benchmarks.scaling` (benchmarks/results/scaling.csv) for 0.3 to 19 million hidden weights and
0.1 to 6 million tokens on a processor; beyond, they lead to published settings of larger models, which each rule names.
Sizes count hidden weights, without embedding and output projection: those are as large or larger in small models, but
their part is easy.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from homegrown.config.model import ModelSettings
from homegrown.config.training import TrainingSettings
from homegrown.corpus.records import MEGABYTE
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import COMPUTE_OPTIMAL_TOKENS, hidden_parameters, optimizer_flops

# --- shape ------------------------------------------------------------------------------------------------------------

WIDTH_PER_LAYER = 64
"""Width for each layer, as in nanochat: depth alone sets the size."""
DEPTHS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
_WIDE = 768
"""Width from which heads have 128 numbers (nanochat), below 64: two heads are to look one and two tokens back."""
_CONTEXTS = ((2048, 2048), (1024, 1024), (448, 512), (0, 256))
"""Context by least width: that of the guide's table, and of `tiny`."""


def shape(depth: int, epochs: float = 1.0) -> ModelSettings:
    """Return a model of so many layers for a text that is read so many times.

    Text that is read many times has one matrix for embedding and output projection: read 15 times by four layers of
    256, Shakespeare's last tenth has 1.377 nats a character with one, and 1.394 with two.
    """
    width = WIDTH_PER_LAYER * depth
    heads = width // (128 if width >= _WIDE else 64)
    return ModelSettings(
        family="modern",
        hidden=width,
        layers=depth,
        heads=heads,
        kv_heads=max(one for one in range(1, heads // 2 + 1) if heads % one == 0),
        feed_forward=2 * width,
        context=next(context for least, context in _CONTEXTS if width >= least),
        tied=epochs > _READ_TWICE,
    )


# --- text -------------------------------------------------------------------------------------------------------------

VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
_BYTES_PER_ENTRY, _BYTES_PER_ENTRY_AGAIN = 180, 350
"""Bytes of different text for each token of the vocabulary, at least: rarer ones are not learned. More for text that is
read many times: in four layers of 128, a decay of 0.8 and 3 million tokens, Shakespeare has 2.126, 2.086 and 2.063 bits
per byte with 512, 1,024 and 2,048 tokens; 4,096 were measured in four layers of 256 only, and have 2.106."""


def vocabulary_sizes(different_bytes: float, epochs: float) -> list[int]:
    """Return the vocabularies to compare for a training that reads so many different bytes so many times."""
    each = _BYTES_PER_ENTRY_AGAIN if epochs > _READ_TWICE else _BYTES_PER_ENTRY
    return [size for size in VOCABULARIES if size == VOCABULARIES[0] or size * each <= different_bytes]


MOST_EPOCHS = 15.0
"""Most epochs: in four layers of 256, Shakespeare has 2.001 bits per byte after 10, 1.987 after 15 and 1.992 after 20;
in three layers of 192 a novel has 1.522 after 10 and 1.515 after 15. Half a megabyte is learned by heart after 3
without dropout."""
_REPEATED = 4.0
"""Epochs after which repeated text is used up (R_D* of Muennighoff et al. 2023, equation 5; theirs, 15.4, is for larger
texts and promises too much for a megabyte). Shakespeare after 10, 15 and 20 epochs and a novel after 10 and 15 are
within half a percent of it, with widths of 192, 256 and 320."""
_REPEATED_STEPS = 8.0
"""The same for Muon's rate, which falls with the steps of readings that teach little too, as in those runs."""


def effective(amount: float, different: float, repeated: float = _REPEATED) -> float:
    """Return the new text that is worth as much as `amount`, of which only `different` is new."""
    if amount <= different:
        return amount
    again = amount / different - 1
    return different * (1 + repeated * (1 - math.exp(-again / repeated)))


# --- loss -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossLaw:
    """Bits per byte after D megabytes of new text with N million hidden weights and V thousands of tokens.

    `floor` + `scale` (1 / (D + `known`) + `narrow` N^-`alpha` + `coarse` (V / 4.096)^-`gamma`)^`power`: the form of
    Kaplan et al. 2020, equation 1.5, by which little text makes use of few weights only, with a part for the
    vocabulary. A sum of powers (Hoffmann et al. 2022) misses these small models by far. `known` is what a start from
    bigrams is worth.
    """

    floor: float
    scale: float
    known: float
    narrow: float
    alpha: float
    coarse: float
    gamma: float
    power: float

    def __call__(self, weights: float, vocabulary: float, text_bytes: float) -> float:
        """Return the bits per byte after `text_bytes` of new text."""
        lack = 1 / (text_bytes / MEGABYTE + self.known)
        lack += self.narrow * (weights / 1e6) ** -self.alpha + self.coarse * (vocabulary / 4096) ** -self.gamma
        return self.floor + self.scale * math.pow(lack, self.power)


LAW = LossLaw(floor=0.3, scale=2.36, known=2.72, narrow=0.0114, alpha=0.951, coarse=0.0621, gamma=0.916, power=0.214)
"""On Wikipedia, by `python -m benchmarks.scaling --fit`."""
REFERENCE = 2.347
"""Bits per byte of Wikipedia's first megabyte by bz2."""
_EASIER = 2.3
"""Power of the ratio of two texts' bits per byte by bz2 that their losses have: a novel has 2.07, and 0.75 times
Wikipedia's loss. Shakespeare has 2.35, and Wikipedia's loss within some percent."""

_EASIEST = 2.06
"""Bits per byte by bz2 below which a text is no easier for a model: those of a novel, with 0.74 times Wikipedia's loss.
38 files of Python, a repository and Arabic documentation have 1.45, 1.90 and 1.73, and 0.77, 0.79 and 0.69 times it
(the means of validation and test): bz2 finds repetitions that are out of a small model's context."""

_FLAT = 2048
"""Vocabulary up to which size matters little to text that is read many times: the law has a difference of 0.13 bits per
byte between 1,024 and 2,048 tokens, Shakespeare of 0.02."""
_WEIGHTS_PER_BYTE = 5.0
"""Hidden weights for each byte of different text that lower the loss: more were not tried."""
_ALIKE, _ALIKE_BYTES, _MIXED_BYTES = 0.963, 1e6, 2e7
"""Share of the law's loss that a megabyte of one author has beside what bz2 says; 20 MB of Wikipedia have 1."""

_LITTLE = {10_000: 0.95, 30_000: 0.83, 100_000: 0.78, 300_000: 0.865, 500_000: 1.0}
"""Ratio of the loss of little text to that of the law, by its bytes: of three books, each within 5% of it
(`python -m benchmarks.dial --little`). So little says less about the text, so bz2 counts less too."""


def promised_loss(config: ModelConfig, text_bytes: float, different_bytes: float, difficulty: float) -> float:
    """Return the bits per byte to expect of held-out text like the one trained on.

    Args:
        config: The model.
        text_bytes: Bytes that training reads, repeated ones included.
        different_bytes: Bytes of the training text.
        difficulty: Bits per byte of the text by bz2.
    """
    supported = different_bytes / _BYTES_PER_ENTRY_AGAIN
    vocabulary = min(config.vocabulary_size, supported)
    weights: float = hidden_parameters(config)
    if text_bytes > _READ_TWICE * different_bytes:
        vocabulary = max(vocabulary, min(_FLAT, supported))
        weights = min(weights, _WEIGHTS_PER_BYTE * different_bytes)
    law = LAW(weights, vocabulary, effective(text_bytes, different_bytes))
    law *= 1 - (1 - _ALIKE) * _between(different_bytes, _MIXED_BYTES, _ALIKE_BYTES)
    law *= float(np.interp(math.log(different_bytes), [math.log(size) for size in _LITTLE], list(_LITTLE.values())))
    easier = _EASIER * _between(different_bytes, min(_LITTLE), max(_LITTLE))
    return law * math.pow(max(difficulty, _EASIEST) / REFERENCE, easier)


_WITHIN, _WITHIN_OTHER = 0.05, 0.18
"""Deviation of the loss of prose from the promise, and of other text: of five texts, each by its validation and its
test documents, which are unlike each other (docs/auto.md)."""
_UNLIKE = 0.1
"""Deviation of held-out documents from others beyond which a range is promised for prose too."""


def is_measured(different_bytes: float, difficulty: float, foreign: float) -> bool:
    """Return whether a text is prose like that of the measurements, by the arguments of `promised_range`."""
    hardest = _HARDEST if different_bytes >= max(_LITTLE) else _HARDEST_LITTLE
    return _EASIEST * (1 - _WITHIN) <= difficulty <= hardest and foreign <= _FOREIGN


def promised_range(
    loss: float, different_bytes: float, difficulty: float, foreign: float, unlike: tuple[float, float]
) -> tuple[float, float]:
    """Return the lowest and the highest loss to expect, equal where the text is prose like that of the measurements.

    Args:
        loss: The loss of `promised_loss`.
        different_bytes: Bytes of the training text.
        difficulty: Bits per byte of the text by bz2.
        foreign: Share of its bytes beyond ASCII.
        unlike: The least and the most bits of a split of the held-out documents beside those of other documents.
    """
    least, most = min(1.0, unlike[0]), max(1.0, unlike[1])
    is_prose = is_measured(different_bytes, difficulty, foreign)
    if is_prose and least >= 1 - _UNLIKE and most <= 1 + _UNLIKE:
        return loss, loss
    within = _WITHIN if is_prose else _WITHIN_OTHER
    return loss * least * (1 - within), loss * most * (1 + within)


_HARDEST, _HARDEST_LITTLE = 2.42, 2.8
"""Bits per byte by bz2 of the hardest text that was measured: half a megabyte or more, and less. A file of Wikipedia's
articles and of books, cut and shuffled, has 2.46, and 1.79 bits per byte instead of 2.13."""
_FOREIGN = 0.15
"""Share of bytes beyond ASCII up to which a text is like those measured: German has 0.02, French 0.07, Turkish 0.13;
Czech with 0.20, Vietnamese with 0.40 and other scripts, with half and more, were not."""


def _between(value: float, none: float, all_of_it: float) -> float:
    """Return 0 at `none`, 1 at `all_of_it`, and what lies between or beyond by the logarithm, from 0 to 1."""
    return min(1.0, max(0.0, math.log(value / none) / math.log(all_of_it / none)))


# --- training ---------------------------------------------------------------------------------------------------------

_BATCH_TOKENS, _BATCH_AT = 262_144, 2.2e9
"""The batch of `small`, for 20 tokens per parameter: nanochat's and Power Lines' (arXiv 2505.13738) at this size."""
_BATCH_EXPONENT = 0.57
"""From 4,096 tokens, better than 2,048 for 1.5 million, to the batch of `small`; Power Lines has 0.383 above."""
_LARGE_EXPONENT = 0.383


def batch_tokens(tokens: float) -> int:
    """Return the tokens of an optimizer step for a training of so many tokens, a power of two."""
    exponent = _BATCH_EXPONENT if tokens < _BATCH_AT else _LARGE_EXPONENT
    return int(2 ** max(10, round(math.log2(_BATCH_TOKENS * (tokens / _BATCH_AT) ** exponent))))


def matrix_learning_rate(tokens: float, batch: int) -> float:
    """Return Muon's rate, the same for all widths: with the root of the batch, and falling with the tokens.

    0.04 is best for 0.2 million tokens in batches of 2,048 (none higher was better), 0.02 for 1.5 million. With the
    batch of this many tokens it is nearly constant, down to 0.0175 for two billion, where nanochat has 0.02.
    """
    return _rounded(min(0.04, 0.028 * (batch / 4096) ** 0.5 * (tokens / 1.5e6) ** -0.35))


def learning_rate(width: int, epochs: float) -> float:
    """Return AdamW's rate beside Muon, of embedding and output projection: with the root of the width (nanochat).

    Text that is read again starts without bigrams (`training.initialisation`), and so without their eighth of this
    rate: of half the rates of Muon and AdamW a novel in two layers of 128 had 1.60 and 1.64 bits per byte, not 1.61 and
    1.67.
    """
    again = 0.6 if epochs > _READ_ONCE else 1.0
    return _rounded(again * 0.028 * (width / 256) ** -0.5)


_TIME_CONSTANTS, _TIME_CONSTANTS_AGAIN = 7.2, 9.0
_READ_ONCE, _READ_TWICE = 1.5, 3.0
"""Readings of the text below which nothing, and below which little, keeps a model from learning it by heart."""
_TIME_CONSTANTS_PER_ROOT = 1.2


def weight_decay(rate: float, steps: int, epochs: float, tokens_per_parameter: float) -> float:
    """Return the decay whose time constant (arXiv 2405.13698), 1 / (rate x decay) steps, is a share of the run.

    For new text the run has 1.2 of them times the root of the tokens per parameter, at most 7.2: the time constant
    falls with a power of them (Power Lines, arXiv 2505.13738). Two layers of 128 have 1.945, 1.933, 1.927 and 1.926
    bits per byte after 3 million tokens of Wikipedia with a decay of 0.63, 0.31, 0.16 and 0; four of 256 have 1.958,
    1.932 and 1.929 after 1.5 million with 0.7, 0.17 and 0.08.

    For text that is read many times the run has 9. Read 15 times by four layers of 256, Shakespeare has 1.987 bits per
    byte with 0.23, which is that, and 1.993 with half; read 8 times by four of 128, 2.036 with 0.3 and 2.086 with 0.8.
    """
    constants = min(_TIME_CONSTANTS, _TIME_CONSTANTS_PER_ROOT * tokens_per_parameter**0.5)
    if epochs > _READ_ONCE:
        constants = _TIME_CONSTANTS_AGAIN if epochs > _READ_TWICE else _TIME_CONSTANTS
    return _rounded(min(1.6, constants / (rate * steps)))


def dropout(epochs: float) -> float:
    """Return the dropout: none for new text, 0.1 for text that is read again.

    Read 8 times with a decay of 0.3, Shakespeare has 2.036 bits per byte in four layers of 128 with 0.1, and 2.071 with
    0.2.
    """
    return 0.0 if epochs <= _READ_ONCE else 0.1


def averaging(epochs: float) -> float | None:
    """Return the share of the steps whose weights are averaged: the last fifth of a text that is read many times."""
    return 0.2 if epochs > _READ_TWICE else None


def final_rate(epochs: float) -> float:
    """Return the share of the peak rate at the last step.

    With a tenth instead of 0, new text has 0.003 to 0.008 fewer bits per byte (benchmarks/results/levers.csv).
    """
    return 0.1 if epochs <= _READ_ONCE else 0.0


_PASS_TOKENS, _NARROW = 2048, 256
"""Tokens of a forward pass that are fastest on a CPU up to this width (homegrown/training/microbatch.py)."""


def pass_rows(model: ModelSettings, most: int) -> int | Literal["auto"]:
    """Return the sequences of a forward pass on a CPU, at most `most`."""
    rows = 2 ** int(math.log2(max(1, _PASS_TOKENS // model.context)))
    return math.gcd(rows, most) if model.hidden <= _NARROW else "auto"


LEAST_STEPS = 60
"""Steps that a training in a given time has at least; the curves of the loss begin there."""
_FEW_STEPS = 600
_VALIDATIONS = 10


def training(
    base: TrainingSettings,
    model: ModelSettings,
    vocabulary: int,
    tokens: float,
    different_tokens: float,
    *,
    device: str,
    devices: int,
) -> TrainingSettings:
    """Return the settings of a training that reads about `tokens`; the rules do not set what stays as in `base`."""
    batch = max(1, batch_tokens(min(tokens, different_tokens)) // model.context // devices) * devices
    step = batch * model.context
    steps = max(2, round(tokens / step))
    epochs = steps * step / different_tokens
    rate = matrix_learning_rate(effective(tokens, different_tokens, _REPEATED_STEPS), step)
    config = ModelConfig.from_settings(model, vocabulary, dropout(epochs))
    five = base.model_copy(update={"orthogonalization_steps": 5})
    costly = optimizer_flops(config, five) > 0.1 * step * config.flops_per_token()
    validations = min(_VALIDATIONS, steps)
    every = -(-steps // validations)
    return TrainingSettings.model_validate(
        base.model_dump()
        | {
            "max_steps": steps,
            "batch_size": batch,
            "micro_batch_size": pass_rows(model, batch // devices) if device == "cpu" else "auto",
            "matrix_learning_rate": rate,
            "learning_rate": learning_rate(model.hidden, epochs),
            "momentum": _rounded(1 - min(0.15, max(0.05, 0.15 * (steps / _FEW_STEPS) ** -0.5))),
            "orthogonalization_steps": 3 if costly else 5,
            "schedule": "linear",
            "final_learning_rate_share": final_rate(epochs),
            "warmup_steps": min(1000, round(steps / 30)),
            "weight_decay": weight_decay(rate, steps, epochs, steps * step / config.parameter_count()),
            "averaging": averaging(epochs),
            "dropout": dropout(epochs),
            "validate_every": every,
            "validation_tokens": int(min(2_000_000, max(10_000, tokens / 100))),
            # Beside a text that is read many times, the best step is the result, not the last one.
            "patience": validations if epochs > _READ_TWICE else None,
            "checkpoint_every": every,
            "sample_every": every,
        }
    )


def compute_optimal(parameters: float) -> float:
    """Return the tokens for a size without a time: 20 per parameter (Hoffmann et al. 2022)."""
    return COMPUTE_OPTIMAL_TOKENS * parameters


def _rounded(value: float) -> float:
    """Return two significant digits: the rules are not more exact."""
    return float(f"{value:.2g}")
