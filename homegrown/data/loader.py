"""Reading tokens for training and evaluation from memory-mapped shards."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homegrown.data.index import Split, TokenFile, read_index
from homegrown.data.permutation import Permutation
from homegrown.data.rows import Rows, map_array
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive

Tokens = npt.NDArray[np.int64]

_BLOCK = 4096
"""Windows whose order is computed at once; bounds memory."""


class TokenSplit:
    """A split (train, validation or test) of a packed corpus as one long array of tokens.

    `tokens` and `documents` are its counts; `bytes` is the size of its text as UTF-8; `context` is the length of its
    rows in the layout best_fit, None in the contiguous one. Tokens are read lazily.
    """

    def __init__(self, packed: Path, split: Split):
        """Open a split in the output folder of the stage `pack`.

        Raises:
            UserError: the index or a shard is missing or damaged.
        """
        index = read_index(packed)
        files = index.splits.get(split, [])
        self.vocabulary_size = index.vocabulary_size
        self.context = index.context
        self._start = index.start
        self.tokens = sum(file.tokens for file in files)
        self.documents = sum(file.documents for file in files)
        self.bytes = sum(file.bytes for file in files)
        self._shards = [_map_tokens(packed, file, index.dtype) for file in files]
        self._starts = [_map_documents(packed, file) for file in files]
        self._rows = None if index.context is None else Rows(packed, files, self._shards, index.context)
        self._first_token = np.cumsum([0, *(file.tokens for file in files)]).tolist()
        self._first_document = np.cumsum([0, *(file.documents for file in files)]).tolist()

    @property
    def longest_document(self) -> int:
        """Tokens of the longest document, special tokens included; 0 without documents."""
        ends = [np.append(starts, len(shard)) for starts, shard in zip(self._starts, self._shards, strict=True)]
        longest = max((int(np.diff(end).max(initial=0)) for end in ends), default=0)
        return longest if self._start is None or not longest else longest + 1

    @property
    def channels(self) -> int:
        """Numbers for each place of a row: 4 with values of documents, else 3."""
        return 3 if self._rows is None else self._rows.channels

    def row_documents(self, index: int) -> tuple[int, npt.NDArray[np.int64]]:
        """Return the shard of a row, and the number there of the document of each of its pieces."""
        assert self._rows is not None
        return self._rows.documents(index)

    def windows(self, context: int) -> int:
        """Return the number of windows of `context` inputs and targets.

        They are adjacent, from the first token on; in the layout best_fit they are its rows.

        Raises:
            UserError: the rows have another length.
        """
        if self._rows is None:
            return max(0, (self.tokens - 1) // context)
        if context != self.context:
            raise UserError(
                f"The tokens are packed in rows of {self.context}, but the model's context is {context}; run the stage "
                "`pack` again, or set pack.layout to contiguous."
            )
        return len(self._rows)

    def fitting(self, context: int) -> int:
        """Return the largest window up to `context` that fits the split, at least 1.

        A held-out split of few small files can be shorter than the context.
        """
        return context if self._rows is not None else max(1, min(context, self.tokens - 1))

    def read(self, indices: Sequence[int] | Tokens, context: int, offset: int = 0) -> Tokens:
        """Return the windows `indices` as int64 [len(indices), context + 1], or rows as [len(indices), 3, context].

        Window i starts at token offset + i * context; its last token is the first of the next window. Rows, which
        have no offset, are inputs, targets and the start of each input's piece (`Rows.read`).

        Raises:
            IndexError: a window exceeds the split.
        """
        if self._rows is not None:
            return self._rows.read(indices)
        return self.read_at([offset + int(index) * context for index in indices], context + 1)

    def read_at(self, starts: Sequence[int], length: int) -> Tokens:
        """Return `length` tokens from each of `starts` on, as int64 [len(starts), length].

        Raises:
            IndexError: they exceed the split.
        """
        rows = np.empty((len(starts), length), dtype=np.int64)
        for row, start in zip(rows, starts, strict=True):
            self._copy(start, row)
        return rows

    def document(self, index: int) -> Tokens:
        """Return the tokens of document `index`, special tokens included, as int64 [tokens].

        Raises:
            IndexError: there is no such document.
        """
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} of {self.documents}")
        shard = bisect_right(self._first_document, index) - 1
        within, starts = index - self._first_document[shard], self._starts[shard]
        end = starts[within + 1] if within + 1 < len(starts) else len(self._shards[shard])
        tokens = self._shards[shard][starts[within] : end].astype(np.int64)
        return tokens if self._start is None else np.concatenate([[self._start], tokens])

    def _copy(self, start: int, row: Tokens) -> None:
        if not 0 <= start <= self.tokens - len(row):
            raise IndexError(f"tokens {start} to {start + len(row)} of {self.tokens}")
        shard = bisect_right(self._first_token, start) - 1
        done = 0
        while done < len(row):
            begin = start + done - self._first_token[shard]
            part = self._shards[shard][begin : begin + len(row) - done]
            row[done : done + len(part)] = part
            done += len(part)
            shard += 1


class Batches:
    """Shuffled training batches, a pure function of the step: training resumes at any step without other state.

    Each epoch draws every window once, in an order seeded by the epoch. The windows start at an offset seeded by the
    epoch too, so the position of a token in its window changes; rows of the layout best_fit have no offset. The last
    batch of an epoch continues into the next epoch.
    """

    def __init__(self, split: TokenSplit, context: int, batch_size: int, seed: int):
        """Prepare batches of `batch_size` windows of `context` tokens and one more.

        Raises:
            UserError: the split is shorter than one window.
        """
        if not split.windows(context):
            raise UserError(
                f"The training split has {split.tokens} tokens, fewer than one window of model.context "
                f"({context}) + 1; add text or lower model.context."
            )
        self._split, self._context, self._batch_size, self._seed = split, context, batch_size, seed
        self._contiguous = split.context is None
        self._windows = max(1, (split.tokens - context) // context) if self._contiguous else split.windows(context)
        self._offsets = min(context, split.tokens - self._windows * context)
        self._starts = lru_cache(maxsize=2)(self._draw)

    @property
    def window(self) -> tuple[int, ...]:
        """Shape of one window of a batch."""
        return (self._context + 1,) if self._contiguous else (self._split.channels, self._context)

    def batch(self, step: int) -> Tokens:
        """Return batch `step` (from 0) as int64 [batch_size, context + 1] or, of rows, [batch_size, 3, context]."""
        drawn = range(step * self._batch_size, (step + 1) * self._batch_size)
        chosen = [self._start(*divmod(number, self._windows)) for number in drawn]
        if self._contiguous:
            return self._split.read_at(chosen, self._context + 1)
        return self._split.read(chosen, self._context)

    def _start(self, epoch: int, position: int) -> int:
        block, within = divmod(position, _BLOCK)
        return self._starts(epoch, block)[within]

    def _draw(self, epoch: int, block: int) -> list[int]:
        """Return a block of the epoch's window starts, or of its row numbers."""
        positions = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self._windows), dtype=np.int64)
        order = Permutation(self._windows, derive(self._seed, "order", epoch))(positions)
        if not self._contiguous:
            rows: list[int] = order.tolist()
            return rows
        offset = derive(self._seed, "offset", epoch) % self._offsets
        starts: list[int] = (offset + order * self._context).tolist()
        return starts


def _map_tokens(packed: Path, file: TokenFile, dtype: str) -> npt.NDArray[np.uint16 | np.uint32]:
    path = packed / file.tokens_file
    try:
        shard = np.memmap(path, dtype=dtype, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged; run the stage `pack` again.") from error
    if len(shard) != file.tokens:
        raise UserError(f"{path} holds {len(shard)} tokens instead of {file.tokens}; run the stage `pack` again.")
    return np.asarray(shard)


def _map_documents(packed: Path, file: TokenFile) -> npt.NDArray[np.int64]:
    return map_array(packed / file.documents_file, (file.documents,))
