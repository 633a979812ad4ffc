"""Packing: every document as `<s>` ids `</s>`, one after the other, in memory-mapped token shards."""

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from homegrown.errors import UserError
from homegrown.files import parquet_parts, replacing
from homegrown.outcome import Outcome
from homegrown.parallel import map_ordered
from homegrown.progress import Progress, silent
from homegrown.recipe import PackSettings
from homegrown.tokens.encoding import Encoder
from homegrown.tokens.index import SPLITS, Index, Split, TokenFile, TokenType, token_type, write_index
from homegrown.tokens.shards import read_shard, text_bytes
from homegrown.tokens.tokenizer import BOS_ID, EOS_ID, load

_FILES = TypeAdapter(list[TokenFile])


@dataclass(frozen=True)
class _Part:
    """One unit of work: a shard of documents, and where its tokens go."""

    out: Path
    split: Split
    number: int
    shard: Path
    tokenizer: Path
    shard_tokens: int

    @property
    def record(self) -> Path:
        """The list of the part's files, written after them: it says that the part is complete."""
        return self.out / self.split / f"part-{self.number:05d}.json"


def pack(
    out: Path,
    shards: Path,
    tokenizer: Path,
    settings: PackSettings,
    *,
    executor: Executor,
    progress: Progress = silent,
) -> Outcome:
    """Encode all documents of all splits; `shards` and `tokenizer` are the folders of those stages.

    Each shard of documents becomes `<split>/tokens-PPPPP-NN.bin` (little-endian uint16, or uint32 for more than 65,536
    tokens) with `documents-PPPPP-NN.npy` (int64 starts of its documents); NN counts up where a file has reached
    `shard_tokens`. `index.json` is written last. Run again on the same `out`, it leaves complete parts alone.

    Raises:
        UserError: the tokenizer or a shard cannot be read, or there is no training text.
    """
    size = load(tokenizer).get_vocab_size()
    parts = [
        _Part(out, split, number, shard, tokenizer, settings.shard_tokens)
        for split in SPLITS
        for number, shard in enumerate(parquet_parts(shards / split))
    ]
    splits: dict[Split, list[TokenFile]] = {split: [] for split in SPLITS}
    for done, (part, files) in enumerate(zip(parts, map_ordered(executor, _pack_part, parts), strict=True), start=1):
        splits[part.split] += files
        progress(done, len(parts), tokens=sum(file.tokens for files in splits.values() for file in files))
    if not splits["train"]:
        raise UserError(f"{shards / 'train'} holds no documents; give more text, or filter less.")
    write_index(out, Index(dtype=token_type(size), vocabulary_size=size, splits=splits))
    everything = [file for files in splits.values() for file in files]
    documents, tokens = sum(file.documents for file in everything), sum(file.tokens for file in everything)
    return Outcome(
        rows_in=documents,
        rows_out=documents,
        metrics={
            "tokens": tokens,
            **{f"{split}_tokens": sum(file.tokens for file in files) for split, files in splits.items()},
            "bytes_per_token": sum(file.bytes for file in everything) / max(1, tokens - 2 * documents),
        },
    )


def _pack_part(part: _Part) -> list[TokenFile]:
    if part.record.exists():
        return _FILES.validate_json(part.record.read_bytes())
    encoder, dtype = _encoder(part.tokenizer)
    files: list[TokenFile] = []
    documents: list[npt.NDArray[np.uint16 | np.uint32]] = []
    tokens = size = 0
    for batch in read_shard(part.shard, ["text"]):
        for text, text_size in zip(batch["text"].to_pylist(), text_bytes(batch).tolist(), strict=True):
            documents.append(_document(encoder, text, dtype))
            tokens += len(documents[-1])
            size += text_size
            if tokens >= part.shard_tokens:
                files.append(_write(part, len(files), documents, size))
                documents, tokens, size = [], 0, 0
    if documents:
        files.append(_write(part, len(files), documents, size))
    with replacing(part.record) as temporary:
        temporary.write_bytes(_FILES.dump_json(files, indent=1))
    return files


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path) -> tuple[Encoder, TokenType]:
    """Return a worker's engine, made once, and the type of its tokens."""
    loaded = load(tokenizer)
    return Encoder(loaded), token_type(loaded.get_vocab_size())


def _document(encoder: Encoder, text: str, dtype: TokenType) -> npt.NDArray[np.uint16 | np.uint32]:
    ids = encoder.encode(text)
    tokens: npt.NDArray[np.uint16 | np.uint32] = np.empty(len(ids) + 2, dtype=dtype)
    tokens[0], tokens[1:-1], tokens[-1] = BOS_ID, ids, EOS_ID
    return tokens


def _write(part: _Part, number: int, documents: list[npt.NDArray[np.uint16 | np.uint32]], size: int) -> TokenFile:
    """Write one shard of tokens and the int64 starts of its documents."""
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    file = TokenFile(
        tokens_file=f"{part.split}/tokens-{part.number:05d}-{number:02d}.bin",
        documents_file=f"{part.split}/documents-{part.number:05d}-{number:02d}.npy",
        tokens=int(ends[-1]),
        documents=len(documents),
        bytes=size,
    )
    with replacing(part.out / file.tokens_file) as temporary, temporary.open("wb") as stream:
        for document in documents:
            stream.write(document.data)
    with replacing(part.out / file.documents_file) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.concatenate([[0], ends[:-1]]), allow_pickle=False)
    return file
