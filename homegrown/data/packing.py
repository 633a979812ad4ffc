"""Packing: documents, each between its special tokens, as memory-mapped token shards."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from homegrown.config.tokens import PackSettings, Phase
from homegrown.data.best_fit import lay_out
from homegrown.data.index import (
    SPLITS,
    Index,
    MixedPhase,
    RowFiles,
    Split,
    TokenFile,
    TokenType,
    token_type,
    write_index,
)
from homegrown.data.shard_files import Document, ShardPlace, write_shard
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.sample import read_shard, text_bytes
from homegrown.tokenizer.special import SpecialIds, special_ids
from homegrown.util.elsewhere import parts_of
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.parallel import map_ordered
from homegrown.util.progress import Metric, Outcome, Progress, silent

TEMPLATED = b"templated"
"""Key in the Parquet metadata of a shard of conversations, in whose text special tokens are tokens."""

SHARD_TOKENS = 50_000_000
"""Tokens in one memory-mapped file."""

_FILES = TypeAdapter(list[TokenFile])


@dataclass(frozen=True)
class _Part:
    """A unit of work: a shard of documents and the place of its tokens."""

    out: Path
    split: Split
    number: int
    shard: Path
    tokenizer: Path
    shard_tokens: int
    context: int | None
    by_source: bool

    @property
    def record(self) -> Path:
        """The list of the part's files, written after them: marks the part as complete."""
        return self.out / self.split / f"part-{self.number:05d}.json"


@dataclass
class _Open:
    """The documents of the next file, their tokens and the bytes of their text."""

    documents: list[Document] = field(default_factory=list)
    tokens: int = 0
    bytes: int = 0

    def add(self, document: Document, size: int) -> None:
        """Add a document whose text has `size` bytes."""
        self.documents.append(document)
        self.tokens += len(document)
        self.bytes += size


def pack(
    out: Path,
    shards: Path,
    tokenizer: Path,
    settings: PackSettings,
    *,
    context: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    executor: Executor,
    progress: Progress = silent,
) -> Outcome:
    """Encode all documents of all splits; `shards` and `tokenizer` are the folders of those stages.

    Each shard of documents becomes `<split>/tokens-PPPPP-NN.bin` (little-endian uint16, or uint32 for more than 65,536
    tokens) with `documents-PPPPP-NN.npy` (int64 starts of its documents); NN increases when a file reaches
    `shard_tokens`. `index.json` is written last. A second call with the same `out` skips complete parts.

    The layout `best_fit` needs the model's `context`. A document of n tokens is n - 1 predictions; a row has `context`
    predictions of one or more documents, complete or, if too long, cut into pieces. A piece starts with the last token
    of the previous piece, which that piece only predicted: each token is predicted exactly once, and the model sees
    nothing before the piece, as in a window of the contiguous layout. The token shards equal those of the contiguous
    layout except for the order of documents, which follows the rows; `rows-PPPPP-NN.npy` and `pieces-PPPPP-NN.npy`
    describe the rows.

    With `settings.mixture`, each file of train and validation has the documents of one source, `SOURCE-NN` in its name,
    and the index has the epochs of each source. Nothing is written twice: the loader repeats a source by reading it
    again, in another order.

    Raises:
        UserError: the tokenizer or a shard cannot be read, or no training text is left, or none of a source that the
            mixture weights.
    """
    if (settings.layout == "best_fit") != (context is not None):
        raise ValueError("the layout best_fit needs a context, and no other takes one")
    loaded = load(tokenizer)
    size, start = loaded.get_vocab_size(), _implied_start(special_ids(loaded), context is not None)
    parts = [
        _Part(out, split, number, shard, tokenizer, shard_tokens, context, bool(settings.mixture) and split != "test")
        for split in SPLITS
        for number, shard in enumerate(parts_of(shards / split))
    ]
    splits: dict[Split, list[TokenFile]] = {split: [] for split in SPLITS}
    for done, (part, files) in enumerate(zip(parts, map_ordered(executor, _pack_part, parts), strict=True), start=1):
        splits[part.split] += files
        progress(done, len(parts), tokens=sum(file.tokens for files in splits.values() for file in files))
    if not splits["train"]:
        raise UserError(f"{shards / 'train'} has no documents; add text, or filter less.")
    mixture = None
    if settings.mixture:
        splits = {split: sorted(files, key=lambda file: file.source or "") for split, files in splits.items()}
        mixture = [_mixed(phase, _tokens_by_source(splits["train"])) for phase in settings.mixture]
    write_index(
        out,
        Index(
            dtype=token_type(size),
            vocabulary_size=size,
            context=context,
            start=start,
            splits=splits,
            mixture=mixture,
        ),
    )
    everything = [file for files in splits.values() for file in files]
    marks = 2 if start is None else 1
    documents, tokens = sum(file.documents for file in everything), sum(file.tokens for file in everything)
    return Outcome(
        rows_in=documents,
        rows_out=documents,
        metrics={
            "tokens": tokens,
            **{f"{split}_tokens": sum(file.tokens for file in files) for split, files in splits.items()},
            "bytes_per_token": sum(file.bytes for file in everything) / max(1, tokens - marks * documents),
            **_row_metrics([file.layout for file in everything if file.layout], tokens - documents, context),
            **_mixture_metrics(mixture, _tokens_by_source(splits["train"])),
        },
    )


def _tokens_by_source(files: list[TokenFile]) -> dict[str, int]:
    tokens: Counter[str] = Counter()
    for file in files:
        tokens[file.source or ""] += file.tokens
    return dict(tokens)


def _mixed(phase: Phase, tokens: dict[str, int]) -> MixedPhase:
    """Return a phase with its weights as epochs; raise UserError for a weighted source without training text."""
    epochs: dict[str, float] = {}
    for name, weight in sorted(phase.weights.items()):
        wanted = weight.epochs if weight.epochs is not None else (weight.tokens or 0) / max(1, tokens.get(name, 0))
        if wanted and not tokens.get(name):
            raise UserError(
                f"pack.mixture weights {name}, which has no training text; set its weight to 0, or add text."
            )
        if wanted:
            epochs[name] = wanted
    return MixedPhase(share=phase.share, epochs=epochs)


def _mixture_metrics(mixture: list[MixedPhase] | None, tokens: dict[str, int]) -> dict[str, Metric]:
    """Return the training tokens of each source, and its epochs in one reading of all phases."""
    metrics: dict[str, Metric] = {}
    for name, count in (tokens if mixture else {}).items():
        epochs = sum(phase.epochs.get(name, 0.0) for phase in mixture or [])
        metrics |= {f"mixture_{name}_tokens": count, f"mixture_{name}_epochs": epochs}
    return metrics


def _row_metrics(layouts: list[RowFiles], predictions: int, context: int | None) -> dict[str, Metric]:
    if context is None:
        return {}
    rows = sum(layout.rows for layout in layouts)
    return {
        "rows": rows,
        "pieces": sum(layout.pieces for layout in layouts),
        "padding": 1 - predictions / (rows * context),
    }


def _pack_part(part: _Part) -> list[TokenFile]:
    if part.record.exists():
        return _FILES.validate_json(part.record.read_bytes())
    encoder, marks, dtype = _encoder(part.tokenizer)
    special = special_tokens_encoder(part.tokenizer) if _is_templated(part.shard) else None
    files: list[TokenFile] = []
    open_files: dict[str, _Open] = {}

    def close(source: str) -> None:
        files.append(_write(part, open_files.pop(source), source, numbers[source]))
        numbers[source] += 1

    numbers: Counter[str] = Counter()
    for batch in read_shard(part.shard, ["text", "source"] if part.by_source else ["text"]):
        sources = batch["source"].to_pylist() if part.by_source else [""] * len(batch)
        texts = batch["text"]
        encoded = list(map(special, texts.to_pylist())) if special else encoder.encode_all(texts)
        documents = _documents(encoded, marks, dtype, part.context is not None)
        for source, document, size in zip(sources, documents, text_bytes(batch).tolist(), strict=True):
            opened = open_files.setdefault(source, _Open())
            opened.add(document, size)
            if opened.tokens >= part.shard_tokens:
                close(source)
    for source in sorted(open_files):
        close(source)
    with replacing(part.record) as temporary:
        temporary.write_bytes(_FILES.dump_json(files, indent=1))
    return files


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path) -> tuple[Encoder, SpecialIds, TokenType]:
    """Return a worker's encoder (created once), its special tokens and its token type."""
    loaded = load(tokenizer)
    return Encoder(loaded), special_ids(loaded), token_type(loaded.get_vocab_size())


def _is_templated(shard: Path) -> bool:
    try:
        return TEMPLATED in (pq.read_schema(shard).metadata or {})
    except (pa.ArrowInvalid, OSError):  # `read_shard` reports it
        return False


def special_tokens_encoder(tokenizer: Path) -> Callable[[str], npt.NDArray[np.uint32]]:
    """Return a function that encodes text in which the text of a special token is that token."""
    loaded = load(tokenizer)
    loaded.encode_special_tokens = False

    def encode(text: str) -> npt.NDArray[np.uint32]:
        return np.array(loaded.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    return encode


def _documents(
    encoded: list[npt.NDArray[np.uint32]], marks: SpecialIds, dtype: TokenType, rows: bool
) -> list[Document]:
    """Return the documents of some texts: their tokens between the special ones, in one array."""
    start = np.array([] if _implied_start(marks, rows) is not None else [marks.start], np.uint32)
    end = np.array([marks.eos], np.uint32)
    parts = [part for tokens in encoded for part in (start, tokens, end)]
    every = np.concatenate(parts).astype(dtype)
    ends = np.cumsum([len(tokens) + len(start) + 1 for tokens in encoded]).tolist()
    return [every[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def _implied_start(marks: SpecialIds, rows: bool) -> int | None:
    """Return the token before a document that the shard does not repeat: the end of the document before it.

    That is so in the contiguous layout where the tokenizer has no start token; else None.
    """
    return marks.start if marks.bos is None and not rows else None


def _write(part: _Part, opened: _Open, source: str, number: int) -> TokenFile:
    """Write a shard of tokens and, in the layout best_fit, its rows."""
    pieces = None
    if part.context:
        lengths = np.array([len(document) - 1 for document in opened.documents], dtype=np.int64)
        pieces = lay_out(lengths, part.context)
    name = f"{part.number:05d}-{f'{source}-' if source else ''}{number:02d}"
    file = write_shard(ShardPlace(part.out, part.split, name), opened.documents, opened.bytes, pieces)
    return file.model_copy(update={"source": source}) if part.by_source else file
