"""The stage `tokenizer`: a byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), trained or imported."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from homegrown.config.tokens import TokenizerSettings
from homegrown.tokenizer.encoding import SPLIT_PATTERN
from homegrown.tokenizer.existing import completed, take
from homegrown.tokenizer.loading import TOKENIZER_FILE, copy_tokenizer, load, token_bytes
from homegrown.tokenizer.sample import read_sample, text_bytes
from homegrown.tokenizer.special import GUIDE_TOKENS, SPECIAL_TOKENS, add_own
from homegrown.tokenizer.usage import by_name, measure_usage
from homegrown.util.elsewhere import parts_of
from homegrown.util.errors import UserError
from homegrown.util.files import replacing, write_parquet
from homegrown.util.progress import Outcome, Progress, silent

_LEAST_FREQUENCY = 2
"""A pair that occurs once is not merged: it belongs to one document, not to the language."""


def train_tokenizer(
    out: Path, shards: Path, settings: TokenizerSettings, *, base: Path | None = None, progress: Progress = silent
) -> Outcome:
    """Train or import the tokenizer, and measure it on the first documents of the shuffled training split.

    A byte-level BPE is trained on these documents; its ids are the special tokens, `special_tokens`, the 256 bytes,
    then the merges in the order of learning. With `settings.path`, that tokenizer is imported
    (`homegrown.tokenizer.existing`); the one in the folder `base` is copied as it is. Writes `tokenizer.json` and the
    tables `vocabulary` (count of each token), `sources` and `languages` (bytes per token).

    Raises:
        UserError: the text has too few pairs to fill the vocabulary, or the given tokenizer is not supported.
    """
    parts = parts_of(shards / "train")
    passes, seen = 1 if settings.path or base else 2, 0

    def sample() -> Iterator[pa.RecordBatch]:
        nonlocal seen
        for batch in read_sample(parts, ["text", "source"], int(settings.sample_mb * 1e6)):
            yield batch
            seen += int(text_bytes(batch).sum())
            progress(seen / 1e6, passes * settings.sample_mb)

    if base is not None:
        tokenizer = load(base)
        copy_tokenizer(base, out)
    else:
        tokenizer = completed(take(Path(settings.path))) if settings.path else _train(sample(), settings)
        add_own(tokenizer, settings.special_tokens)
        with replacing(out / TOKENIZER_FILE) as temporary:
            tokenizer.save(str(temporary))
    usage, sizes = measure_usage(tokenizer, sample()), token_bytes(tokenizer)
    write_parquet(out / "vocabulary" / "part-00000.parquet", usage.by_token(tokenizer, sizes))
    write_parquet(out / "sources" / "part-00000.parquet", by_name("source", usage.sources))
    write_parquet(out / "languages" / "part-00000.parquet", by_name("language", usage.languages))
    totals = usage.sources.values()
    text = sum(total.bytes for total in totals)
    return Outcome(
        rows_in=sum(total.documents for total in totals),
        rows_out=len(sizes),
        unit="tokens",
        metrics={
            "sample_mb": text / 1e6,
            "bytes_per_token": text / max(1, int(usage.counts.sum())),
            "unused_tokens": int((usage.counts[sizes > 0] == 0).sum()),
            "longest_token_bytes": int(sizes.max()),
        },
    )


def bytes_per_token(texts: Sequence[str], vocabulary_size: int) -> float:
    """Return the UTF-8 bytes of texts per token of a byte-level BPE that is trained on them."""
    tokenizer = _untrained()
    tokenizer.train_from_iterator(texts, _trainer(TokenizerSettings(vocabulary_size=vocabulary_size, sample_mb=1)))
    tokens = sum(len(one.ids) for one in tokenizer.encode_batch(texts))
    return sum(len(text.encode()) for text in texts) / max(1, tokens)


def _train(sample: Iterator[pa.RecordBatch], settings: TokenizerSettings) -> Tokenizer:
    tokenizer, seen = _untrained(), 0
    own = re.compile("|".join(map(re.escape, settings.special_tokens))) if settings.special_tokens else None

    def texts() -> Iterator[list[str]]:
        nonlocal seen
        for batch in sample:
            seen += int(text_bytes(batch).sum())
            texts: list[str] = batch["text"].to_pylist()
            yield texts if own is None else [piece for text in texts for piece in own.split(text)]

    tokenizer.train_from_iterator(texts(), _trainer(settings))
    tokenizer = _with_visible(tokenizer, settings.special_tokens)
    size = tokenizer.get_vocab_size()
    if size < settings.vocabulary_size:
        raise UserError(
            f"tokenizer.vocabulary_size is {settings.vocabulary_size}, but {seen / 1e6:.3g} MB of training text give "
            f"{size} tokens only; lower it to {size} or less, or add text."
        )
    return tokenizer


def _with_visible(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Return the tokenizer with these added tokens not special: text is searched for them, and they stay visible."""
    if not names:
        return tokenizer
    description = json.loads(tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in names
    return Tokenizer.from_str(json.dumps(description))


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
        special_tokens=[*(SPECIAL_TOKENS if settings.special == "chat" else GUIDE_TOKENS), *settings.special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
