"""Reading tokens for training and evaluation from memory-mapped shards."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homegrown.data.index import MixedPhase, Split, TokenFile, read_index
from homegrown.data.mixture import Order, phase_ends
from homegrown.data.permutation import Permutation
from homegrown.data.rows import Rows, map_array
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive

Tokens = npt.NDArray[np.int64]


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
        self.mixture = index.mixture
        self.everything = range(self.tokens if self._rows is None else len(self._rows))
        """The tokens of the split, or its rows."""
        self.stretches = _stretches(files) if index.mixture else {}
        """Those of each source of a mixture."""

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

    Each epoch of a source draws every window of it once, in an order seeded by the epoch. The windows start at an
    offset seeded by the epoch too, so the position of a token in its window changes; rows of the layout best_fit have
    no offset. Without a mixture all text is one source. The last batch of an epoch continues into the next epoch.
    """

    def __init__(self, split: TokenSplit, context: int, batch_size: int, seed: int, steps: int | None = None):
        """Prepare batches of `batch_size` windows of `context` tokens and one more.

        A mixture of several phases needs the `steps` of the training, whose shares the phases are.

        Raises:
            UserError: the split, or a source of its mixture, is shorter than one window.
        """
        if not split.windows(context):
            raise UserError(
                f"The training split has {split.tokens} tokens, fewer than one window of model.context "
                f"({context}) + 1; add text or lower model.context."
            )
        self._split, self._context, self._batch_size = split, context, batch_size
        self._contiguous = split.context is None
        phases = split.mixture or [MixedPhase(share=1.0, epochs={"": 1.0})]
        names = sorted({name for phase in phases for name in phase.epochs})
        stretches = split.stretches if split.mixture else {"": split.everything}
        self._windows = {name: _Windows(split, stretches[name], context, seed, name) for name in names}
        if len(phases) > 1 and steps is None:
            raise ValueError("a mixture of several phases needs the number of steps")
        ends = [end * batch_size for end in phase_ends([phase.share for phase in phases], steps or 0)]
        lengths = [end - begin for begin, end in pairwise([0, *ends[:-1]])]
        self._order = Order([self._counts(phase) for phase in phases], lengths, seed)
        self._first, self._starts = self._draw(0)

    def _counts(self, phase: MixedPhase) -> list[int]:
        """Return the windows of each source in one reading of a phase."""
        epochs = [(phase.epochs.get(name, 0.0), windows) for name, windows in self._windows.items()]
        return [max(1, round(many * windows.count)) if many else 0 for many, windows in epochs]

    @property
    def window(self) -> tuple[int, ...]:
        """Shape of one window of a batch."""
        return (self._context + 1,) if self._contiguous else (self._split.channels, self._context)

    def batch(self, step: int) -> Tokens:
        """Return batch `step` (from 0) as int64 [batch_size, context + 1] or, of rows, [batch_size, 3, context]."""
        drawn = range(step * self._batch_size, (step + 1) * self._batch_size)
        chosen = [self._start(number) for number in drawn]
        if self._contiguous:
            return self._split.read_at(chosen, self._context + 1)
        return self._split.read(chosen, self._context)

    def drawn(self, steps: int) -> dict[str, tuple[int, float]]:
        """Return the tokens and epochs of each source of the mixture in the first steps; empty without one."""
        if not self._split.mixture:
            return {}
        counts = self._order.drawn(steps * self._batch_size).tolist()
        windows = zip(self._windows.items(), counts, strict=True)
        return {name: (count * self._context, count / own.count) for (name, own), count in windows}

    def _start(self, number: int) -> int:
        if not 0 <= number - self._first < len(self._starts):
            self._first, self._starts = self._draw(number)
        return self._starts[number - self._first]

    def _draw(self, number: int) -> tuple[int, list[int]]:
        """Return the first window of the block with `number`, and its window starts or row numbers."""
        block = self._order.block(number)
        starts = np.empty(len(block), np.int64)
        for source, windows in enumerate(self._windows.values()):
            own = block.sources == source
            starts[own] = windows.starts(block.draws[own])
        drawn: list[int] = starts.tolist()
        return block.first, drawn


class _Windows:
    """The windows of a source, epoch after epoch, each epoch in its own order."""

    def __init__(self, split: TokenSplit, stretch: range, context: int, seed: int, name: str):
        self._seed = derive(seed, "source", name) if name else seed
        self._stretch, self._context, self._contiguous = stretch, context, split.context is None
        tokens = len(stretch)
        if self._contiguous and tokens <= context:
            raise UserError(
                f"Source {name} of pack.mixture has {tokens} training tokens, fewer than one window of model.context "
                f"({context}) + 1; add text, or set its weight to 0."
            )
        self.count = max(1, (tokens - context) // context) if self._contiguous else tokens
        self._offsets = min(context, tokens - self.count * context)

    def starts(self, draws: Tokens) -> Tokens:
        """Return the starts of windows, or the numbers of rows, of increasing draws."""
        starts = np.empty_like(draws)
        epochs, positions = np.divmod(draws, self.count)
        for epoch in np.unique(epochs).tolist():
            own = epochs == epoch
            order = Permutation(self.count, derive(self._seed, "order", epoch))(positions[own])
            if self._contiguous:
                order = derive(self._seed, "offset", epoch) % self._offsets + order * self._context
            starts[own] = self._stretch.start + order
        return starts


def _stretches(files: Sequence[TokenFile]) -> dict[str, range]:
    """Return the tokens, or rows, of each source, whose files are neighbors."""
    found: dict[str, range] = {}
    end = 0
    for file in files:
        begin, end = end, end + (file.layout.rows if file.layout else file.tokens)
        name = file.source or ""
        found[name] = range(found[name].start if name in found else begin, end)
    return found


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
