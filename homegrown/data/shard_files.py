"""Writing a shard: tokens, starts of documents, rows and loss mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homegrown.data.best_fit import Pieces
from homegrown.data.index import RowFiles, Split, TokenFile
from homegrown.util.files import writing

Document = npt.NDArray[np.uint16 | np.uint32]
Learned = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ShardPlace:
    """The place of a shard's files: `out/split/tokens-NAME.bin` and others."""

    out: Path
    split: Split
    name: str

    def file(self, what: str, ending: str) -> str:
        """Return the name of a file, relative to `out`."""
        return f"{self.split}/{what}-{self.name}.{ending}"


def write_shard(
    place: ShardPlace,
    documents: Sequence[Document],
    text_bytes: int,
    pieces: Pieces | None = None,
    learned: Sequence[Learned] | None = None,
) -> TokenFile:
    """Write `documents` (each little-endian uint16 or uint32 [tokens]); each file atomically.

    With `pieces`, the layout of their predictions in rows, documents follow the rows of their last pieces, so that the
    documents of a row are adjacent. `learned` is the loss mask of each document.
    """
    layout = None
    if pieces is not None:
        last = np.zeros(len(documents), dtype=np.int64)
        np.maximum.at(last, pieces.document, pieces.row)
        order = np.argsort(last, kind="stable")
        documents = [documents[index] for index in order.tolist()]
        learned = learned and [learned[index] for index in order.tolist()]
        layout = _write_rows(place, pieces, _starts(documents)[np.argsort(order)])
    file = TokenFile(
        tokens_file=place.file("tokens", "bin"),
        documents_file=place.file("documents", "npy"),
        tokens=sum(map(len, documents)),
        documents=len(documents),
        bytes=text_bytes,
        layout=layout,
        learned_file=None if learned is None else place.file("learned", "bin"),
    )
    _write_all(place.out / file.tokens_file, documents)
    _save(place.out / file.documents_file, _starts(documents))
    if learned is not None and file.learned_file is not None:
        _write_all(place.out / file.learned_file, learned)
    return file


def _write_rows(place: ShardPlace, pieces: Pieces, starts: npt.NDArray[np.int64]) -> RowFiles:
    """Write the pieces of documents with these `starts`."""
    rows = int(pieces.row[-1]) + 1
    layout = RowFiles(
        rows_file=place.file("rows", "npy"),
        pieces_file=place.file("pieces", "npy"),
        rows=rows,
        pieces=len(pieces.row),
    )
    _save(place.out / layout.rows_file, np.searchsorted(pieces.row, np.arange(rows + 1)).astype(np.int64))
    _save(place.out / layout.pieces_file, np.stack([starts[pieces.document] + pieces.start, pieces.length], axis=1))
    return layout


def _starts(documents: Sequence[Document]) -> npt.NDArray[np.int64]:
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    return np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])


def _write_all(path: Path, arrays: Sequence[Document] | Sequence[Learned]) -> None:
    with writing(path) as stream:
        for array in arrays:
            stream.write(array.data)


def _save(path: Path, array: npt.NDArray[np.int64]) -> None:
    with writing(path) as stream:
        np.save(stream, array, allow_pickle=False)
