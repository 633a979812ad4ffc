"""The tokenizer: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), its fixed tokens, training and loading."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from homegrown.errors import UserError
from homegrown.files import parquet_parts, replacing, write_parquet
from homegrown.outcome import Outcome
from homegrown.progress import Progress, silent
from homegrown.recipe import TokenizerSettings
from homegrown.tokens.encoding import to_bytes
from homegrown.tokens.shards import read_sample, text_bytes
from homegrown.tokens.usage import measure_usage

TOKENIZER_FILE = "tokenizer.json"

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>")
"""Their ids are their places; the last two belong to the chat template."""
BOS_ID, PAD_ID, EOS_ID, UNK_ID, MASK_ID, IM_START_ID, IM_END_ID = range(len(SPECIAL_TOKENS))

SPLIT_PATTERN = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's, in the form of llama.cpp's pre-tokenizer "qwen2": `(?i:'s)` there would also take the long s of U+017F."""

_LEAST_FREQUENCY = 2
"""A pair seen once is not merged: it would spell one document instead of the language."""


def train_tokenizer(out: Path, shards: Path, settings: TokenizerSettings, *, progress: Progress = silent) -> Outcome:
    """Train byte-level BPE on the first documents of the training split, which the stage `shard` has shuffled.

    Writes `tokenizer.json` and two tables about the sample: `vocabulary` (how often each token occurs) and `sources`
    (bytes per token by source). Ids: special tokens, then the 256 bytes, then the merges in the order of learning.

    Raises:
        UserError: the text does not hold enough pairs to fill the vocabulary.
    """
    parts = parquet_parts(shards / "train")
    seen = 0

    def sample() -> Iterator[pa.RecordBatch]:
        nonlocal seen
        for batch in read_sample(parts, ["text", "source"], int(settings.sample_mb * 1e6)):
            yield batch
            seen += int(text_bytes(batch).sum())
            progress(seen / 1e6, 2 * settings.sample_mb)

    tokenizer = _untrained()
    tokenizer.train_from_iterator((batch["text"].to_pylist() for batch in sample()), _trainer(settings))
    size = tokenizer.get_vocab_size()
    if size < settings.vocabulary_size:
        raise UserError(
            f"tokenizer.vocabulary_size is {settings.vocabulary_size}, but {seen / 1e6:.3g} MB of training text are "
            f"enough for {size} tokens only; lower it to {size} or less, or give more text."
        )
    with replacing(out / TOKENIZER_FILE) as temporary:
        tokenizer.save(str(temporary))
    usage, sizes = measure_usage(tokenizer, sample()), token_bytes(tokenizer)
    write_parquet(out / "vocabulary" / "part-00000.parquet", usage.by_token(tokenizer, sizes))
    write_parquet(out / "sources" / "part-00000.parquet", usage.by_source())
    totals = usage.sources.values()
    text = sum(total.bytes for total in totals)
    return Outcome(
        rows_in=sum(total.documents for total in totals),
        rows_out=size,
        unit="tokens",
        metrics={
            "sample_mb": text / 1e6,
            "bytes_per_token": text / int(usage.counts.sum()),
            "unused_tokens": int((usage.counts[len(SPECIAL_TOKENS) :] == 0).sum()),
            "longest_token_bytes": int(sizes.max()),
        },
    )


def load(folder: Path) -> Tokenizer:
    """Load the tokenizer of a folder; the text of a special token is encoded like any other text.

    Raises:
        UserError: the file is missing or is not a tokenizer.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; run the stage `tokenizer` again.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise UserError(f"{path} is damaged ({error}); run the stage `tokenizer` again.") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """Return how many bytes of UTF-8 text each token stands for, int32 [vocabulary]; special tokens for none."""
    sizes = np.zeros(tokenizer.get_vocab_size(), dtype=np.int32)
    special = tokenizer.get_added_tokens_decoder()
    for token, number in tokenizer.get_vocab().items():
        if number not in special:
            sizes[number] = len(to_bytes(token))
    return sizes


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _trainer(settings: TokenizerSettings) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        min_frequency=_LEAST_FREQUENCY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
