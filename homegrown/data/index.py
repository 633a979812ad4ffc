"""The index of a folder of token shards: what `packing` writes and `loader` reads."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.util.errors import UserError
from homegrown.util.files import replacing

INDEX_FILE = "index.json"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

TokenType = Literal["<u2", "<u4"]
"""NumPy's name of the little-endian type of one token."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RowFiles(_Strict):
    """How a shard's documents are laid out in rows: two files (npy, int64), relative to the index.

    Piece i is `pieces_file`[i] = (its first token in the shard, how many tokens are predicted from there on); row r
    holds the pieces from `rows_file`[r] to `rows_file`[r + 1].
    """

    rows_file: str
    pieces_file: str
    rows: int
    pieces: int


class TokenFile(_Strict):
    """One shard: its two files, relative to the index, and what they hold.

    `tokens_file` is the bare array of tokens; `documents_file` holds where each document starts in it (npy, int64).
    `bytes` counts the documents' text as UTF-8, without the tokens that mark their starts and ends. Where not every
    token is to be learned, `learned_file` says which: a byte for each, 0 or 1.
    """

    tokens_file: str
    documents_file: str
    tokens: int
    documents: int
    bytes: int
    layout: RowFiles | None = None
    learned_file: str | None = None


class Index(_Strict):
    """All shards of all splits, in order; `context` is the length of their rows, None where tokens lie end to end."""

    dtype: TokenType
    vocabulary_size: int
    context: int | None = None
    splits: dict[Split, list[TokenFile]]


def token_type(vocabulary_size: int) -> TokenType:
    """Return the smallest type that holds every token of the vocabulary."""
    return "<u2" if vocabulary_size <= 2**16 else "<u4"


def write_index(packed: Path, index: Index) -> None:
    """Write the index, whole or not at all."""
    with replacing(packed / INDEX_FILE) as temporary:
        temporary.write_text(index.model_dump_json(indent=1) + "\n")


def read_index(packed: Path) -> Index:
    """Read and check the index of a folder of token shards.

    Raises:
        UserError: it is missing or is not an index.
    """
    path = packed / INDEX_FILE
    try:
        return Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); run the stage `pack` again.") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged; run the stage `pack` again.") from error
