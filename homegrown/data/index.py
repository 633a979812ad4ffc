"""The index of a folder of token shards; `packing` writes it, `loader` reads it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.util.errors import UserError
from homegrown.util.files import replacing

INDEX_FILE = "index.json"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

TokenType = Literal["<u2", "<u4"]
"""NumPy name of the little-endian type of a token."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RowFiles(_Strict):
    """The rows of a shard: two files (npy, int64), relative to the index.

    Piece i is `pieces_file`[i] = (first token in the shard, number of predicted tokens); row r has the pieces
    `rows_file`[r] to `rows_file`[r + 1].
    """

    rows_file: str
    pieces_file: str
    rows: int
    pieces: int


class TokenFile(_Strict):
    """A shard: its files, relative to the index, and their counts.

    `tokens_file` is the raw array of tokens; `documents_file` has the start of each document (npy, int64). `bytes` is
    the size of the text as UTF-8, without special tokens. `learned_file`, if any, is the loss mask: one byte per
    token, 0 or 1. `values_file`, if any, has a number for each document (npy, float64). `source`: that of all its
    documents, None if not separated.
    """

    tokens_file: str
    documents_file: str
    tokens: int
    documents: int
    bytes: int
    layout: RowFiles | None = None
    learned_file: str | None = None
    values_file: str | None = None
    source: str | None = None


class MixedPhase(_Strict):
    """A phase of the mixture: its share of the training steps, and the epochs of each source in one reading of it."""

    share: float
    epochs: dict[str, float]


class Index(_Strict):
    """All shards of all splits, in order; `context`: length of their rows, None in the contiguous layout.

    With a `mixture`, the shards of train and validation have one source each, and those of a source are neighbors.
    `start`: the token before each document if the shards omit it, as without a start token; it ends the previous one.
    """

    dtype: TokenType
    vocabulary_size: int
    context: int | None = None
    start: int | None = None
    splits: dict[Split, list[TokenFile]]
    mixture: list[MixedPhase] | None = None


def token_type(vocabulary_size: int) -> TokenType:
    """Return the smallest type for the tokens of the vocabulary."""
    return "<u2" if vocabulary_size <= 2**16 else "<u4"


def write_index(packed: Path, index: Index) -> None:
    """Write the index atomically."""
    with replacing(packed / INDEX_FILE) as temporary:
        temporary.write_text(index.model_dump_json(indent=1) + "\n")


def read_index(packed: Path) -> Index:
    """Read and validate the index of a folder of token shards.

    Raises:
        UserError: it is missing or damaged.
    """
    path = packed / INDEX_FILE
    try:
        return Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); run the stage `pack` again.") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged; run the stage `pack` again.") from error
