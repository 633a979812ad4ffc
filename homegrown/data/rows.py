"""Reading the rows of the layout best_fit from memory-mapped shards."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from homegrown.data.index import RowFiles, TokenFile
from homegrown.util.errors import UserError

NO_TARGET = -100
"""Target of padding and masked tokens: the value that PyTorch's losses and ours ignore."""

_PADDING = 0  # any token serves: nothing attends to it, and it has no target

Numbers = npt.NDArray[np.int64]
Array = TypeVar("Array", bound=Any)


class Rows:
    """All rows of a split, in the order of its shards."""

    def __init__(
        self,
        packed: Path,
        files: Sequence[TokenFile],
        shards: Sequence[npt.NDArray[np.uint16 | np.uint32]],
        context: int,
    ):
        """Map the rows of `files`, whose tokens are `shards`.

        Raises:
            UserError: a file is missing or damaged.
        """
        layouts = [_layout(packed, file) for file in files]
        self._context, self._shards = context, shards
        self._learned = [_map_learned(packed, file) for file in files]
        self._rows = [map_array(packed / layout.rows_file, (layout.rows + 1,)) for layout in layouts]
        self._pieces = [map_array(packed / layout.pieces_file, (layout.pieces, 2)) for layout in layouts]
        self._values = [_map_values(packed, file) for file in files]
        self._starts = [map_array(packed / file.documents_file, (file.documents,)) for file in files]
        self.channels = 4 if any(values is not None for values in self._values) else 3
        """Numbers for each place of a row."""
        self._first = np.cumsum([0, *(layout.rows for layout in layouts)]).tolist()

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, indices: Sequence[int] | Numbers) -> Numbers:
        """Return the rows `indices` as int64 [len(indices), 3, context], or 4 with values of documents.

        That is: inputs; targets, `NO_TARGET` at padding and masked tokens; for each input the position in the row where
        its piece starts, for attention within documents; and the bits of the value of its document, a float64. Padding
        is a separate piece at the end.

        Raises:
            IndexError: a row does not exist.
        """
        rows = np.empty((len(indices), self.channels, self._context), dtype=np.int64)
        for row, index in zip(rows, indices, strict=True):
            self._copy(int(index), row)
        return rows

    def documents(self, index: int) -> tuple[int, Numbers]:
        """Return the shard of a row, and the number there of the document of each of its pieces."""
        shard = bisect_right(self._first, index) - 1
        first, last = self._rows[shard][index - self._first[shard] :][:2]
        begins = self._pieces[shard][first:last, 0]
        return shard, np.searchsorted(self._starts[shard], begins, side="right") - 1

    def _copy(self, index: int, row: Numbers) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = bisect_right(self._first, index) - 1
        within, tokens = index - self._first[shard], self._shards[shard]
        first, last = self._rows[shard][within : within + 2]
        begins, lengths = self._pieces[shard][first:last].T
        ends = np.cumsum(lengths)
        filled = int(ends[-1])
        starts = np.repeat(ends - lengths, lengths)
        places = np.repeat(begins, lengths) + np.arange(filled) - starts
        row[0, :filled], row[1, :filled], row[2, :filled] = tokens[places], tokens[places + 1], starts
        if (learned := self._learned[shard]) is not None:
            row[1, :filled][learned[places + 1] == 0] = NO_TARGET
        row[0, filled:], row[1, filled:], row[2, filled:] = _PADDING, NO_TARGET, filled
        if (values := self._values[shard]) is not None:
            documents = np.searchsorted(self._starts[shard], begins, side="right") - 1
            row[3, :filled], row[3, filled:] = np.repeat(values[documents].view(np.int64), lengths), 0


def _map_learned(packed: Path, file: TokenFile) -> npt.NDArray[np.uint8] | None:
    if file.learned_file is None:
        return None
    path = packed / file.learned_file
    try:
        learned = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged; run the stage `instructions` again.") from error
    if len(learned) != file.tokens:
        raise UserError(
            f"{path} has {len(learned)} tokens instead of {file.tokens}; run the stage `instructions` again."
        )
    return np.asarray(learned)


def _map_values(packed: Path, file: TokenFile) -> npt.NDArray[np.float64] | None:
    if file.values_file is None:
        return None
    path = packed / file.values_file
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged; run the stage `preferences` again.") from error
    if values.shape != (file.documents,) or values.dtype != np.float64:
        raise UserError(f"{path} is damaged; run the stage `preferences` again.")
    return np.asarray(values)


def parts(windows: Array) -> tuple[Array, Array, Array | None]:
    """Return inputs and targets [rows, context] of windows of either layout, and the starts of pieces or None.

    `windows` is an array or tensor [rows, context + 1], or [rows, 3 or 4, context] of the layout best_fit.
    """
    if windows.ndim == 2:
        return windows[:, :-1], windows[:, 1:], None
    return windows[:, 0], windows[:, 1], windows[:, 2]


def map_array(path: Path, shape: tuple[int, ...]) -> Numbers:
    """Map an npy file of int64 with this shape.

    Raises:
        UserError: it is missing, damaged or has another shape.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged; run the stage `pack` again.") from error
    if array.shape != shape or array.dtype != np.int64:
        raise UserError(f"{path} has shape {array.shape} instead of {shape}; run the stage `pack` again.")
    return np.asarray(array)


def _layout(packed: Path, file: TokenFile) -> RowFiles:
    if file.layout is None:
        raise UserError(f"{packed / file.tokens_file} has no rows; run the stage `pack` again.")
    return file.layout
