"""Packing conversations from JSON files as tokens with a loss mask on the answers."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from homegrown.config.finetune_recipe import InstructionSettings, Shape
from homegrown.data.best_fit import lay_out_whole
from homegrown.data.conversations import Malformed, conversation, shape_of
from homegrown.data.index import SPLITS, Index, Split, TokenFile, token_type, write_index
from homegrown.data.instruction_files import Record, find, read
from homegrown.data.shard_files import Document, Learned, ShardPlace, write_shard
from homegrown.tokenizer.chat import Message, TurnEncoder, with_system
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.special import special_ids
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent

_SHARD_TOKENS = 8_000_000  # in memory at once, each with a byte of loss mask
_ROWS = 10_000  # of a table in memory at once
_OFTEN = 1000  # conversations between two reports of progress

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_PLACE = [("path", pa.string()), ("position", pa.int64())]
_DROPPED = pa.schema([*_PLACE, ("reason", pa.string()), ("tokens", pa.int64())])
_SHORTENED = pa.schema([*_PLACE, ("tokens", pa.int64()), ("messages_left_out", pa.int64())])
_HELD_OUT = pa.schema([*_PLACE, ("messages", _MESSAGES)])


@dataclass(frozen=True)
class _Read:
    """A conversation and its record."""

    record: Record
    shape: Shape
    messages: list[Message]


@dataclass(frozen=True)
class _Survey:
    """The result of the first pass over all conversations, in the order of the files.

    `contents` uint64 [conversations]: hash of each; `repeated` and `held_out`: bool [conversations].
    """

    contents: npt.NDArray[np.uint64]
    repeated: npt.NDArray[np.bool_]
    held_out: npt.NDArray[np.bool_]
    shapes: Counter[Shape]


def prepare(
    out: Path, tokenizer: Path, settings: InstructionSettings, *, context: int, progress: Progress = silent
) -> Outcome:
    """Pack conversations in the layout best_fit of the stage `pack`, without cutting any.

    A document is a conversation in the chat template (`homegrown.tokenizer.chat`); a row is `context` predictions of
    one or more conversations. Targets are the answers only, each with its end-of-turn token. `TokenSplit`, `Batches`
    and the training loop read the folder `out` like any other; its splits are train and validation.

    Files are read twice; 16 bytes per conversation stay in memory. Repeated conversations are dropped. The validation
    split is chosen by a hash of the first question, ignoring case and white space: no question is in both splits, and
    the order of files is irrelevant. A conversation longer than `context` keeps the first exchanges that fit, and is
    dropped if the first does not. The Parquet tables `dropped`, `shortened` and `held_out` list these conversations.

    Args:
        out: Output folder.
        tokenizer: Folder of the tokenizer.
        settings: The files and how to read them.
        context: Context of the model.
        progress: Called with the number of processed conversations.

    Raises:
        UserError: a file cannot be read, a record is not a conversation, the questions are fewer than two, the system
            message contains a special token, or nothing fits the context.
    """
    files = find(settings.files)
    loaded = load(tokenizer)
    _check_system(settings.system, [token.content for token in loaded.get_added_tokens_decoder().values()])
    survey = _survey(files, settings, progress)
    encode = TurnEncoder(Encoder(loaded), special_ids(loaded))
    size = loaded.get_vocab_size()
    packer = _Packer(out, encode, context, np.dtype(token_type(size)))
    for number, (one, repeated, held_out) in enumerate(_again(files, settings, survey), start=1):
        if repeated:
            packer.drop(one, "duplicate", None)
        else:
            messages = with_system(one.messages, settings.system)
            packer.add(one, messages, "validation" if held_out else "train")
        if number % _OFTEN == 0 or number == len(survey.contents):
            progress(number, len(survey.contents), tokens=packer.tokens)
    splits = packer.finish()
    for split in ("train", "validation"):
        if not splits[split]:
            raise UserError(
                f"No {'training' if split == 'train' else 'validation'} conversation fits the model's context of "
                f"{context} tokens; use shorter ones, or a base with a longer context."
            )
    write_index(out, Index(dtype=token_type(size), vocabulary_size=size, context=context, splits=splits))
    shapes: dict[str, Metric] = {f"{shape}_conversations": count for shape, count in survey.shapes.items()}
    kept = sum(file.documents for files in splits.values() for file in files)
    return Outcome(
        rows_in=len(survey.contents), rows_out=kept, unit="conversations", metrics=packer.metrics(splits) | shapes
    )


def _check_system(system: str | None, special: Sequence[str]) -> None:
    """Raise UserError for a special token in the system message: a template would make it a token."""
    found = [mark for mark in special if system and mark in system]
    if found:
        raise UserError(f"instructions.system contains {found[0]!r}, a special token of the tokenizer; remove it.")


def _conversations(files: Sequence[str], settings: InstructionSettings) -> Iterator[_Read]:
    """Yield every conversation; the first record of a file decides its shape. Raises UserError."""
    for path in files:
        shape = None if settings.shape == "auto" else settings.shape
        empty = True
        for record in read(path):
            empty = False
            try:
                shape = shape or shape_of(record.value)
                messages = conversation(record.value, shape)
            except Malformed as error:
                raise UserError(f"{record.place} {error}; fix or remove it.") from None
            yield _Read(record, shape, messages)
        if empty:
            raise UserError(f"{path} has no conversations; fill it or remove it from instructions.files.")


def _survey(files: Sequence[str], settings: InstructionSettings, progress: Progress) -> _Survey:
    contents, questions, shapes = array("Q"), array("Q"), Counter[Shape]()
    for number, one in enumerate(_conversations(files, settings), start=1):
        contents.append(_content(one.messages))
        questions.append(_question(one.messages))
        shapes[one.shape] += 1
        if number % _OFTEN == 0:
            progress(number)
    content = np.frombuffer(contents, dtype=np.uint64)
    repeated = np.ones(len(content), dtype=np.bool_)
    repeated[np.unique(content, return_index=True)[1]] = False
    question = np.frombuffer(questions, dtype=np.uint64)
    return _Survey(content, repeated, question <= _last_held_out(question, settings.held_out), shapes)


def _last_held_out(questions: npt.NDArray[np.uint64], share: float) -> np.uint64:
    """Return the greatest held-out hash: the lowest distinct hashes are held out, at least one and not all."""
    different = np.unique(questions)
    if len(different) < 2:
        raise UserError(
            "instructions.files have fewer than two different questions, one to train on and one to hold out; add some."
        )
    last: np.uint64 = different[max(1, round(share * len(different))) - 1]
    return last


def _content(messages: Sequence[Message]) -> int:
    """Return a 64-bit hash of a conversation; two of a million collide with a chance of 1 in 10^7."""
    text = "\0".join(part for message in messages for part in (message.role, message.content))
    return xxhash.xxh3_64_intdigest(text.encode())


def _question(messages: Sequence[Message]) -> int:
    question = next(message.content for message in messages if message.role == "user")
    return xxhash.xxh3_64_intdigest(("question\0" + " ".join(question.casefold().split())).encode())


def _again(files: Sequence[str], settings: InstructionSettings, survey: _Survey) -> Iterator[tuple[_Read, bool, bool]]:
    """Yield every conversation with its flags from the survey; raise UserError if it has changed."""
    number = -1
    for number, one in enumerate(_conversations(files, settings)):
        if number == len(survey.contents) or _content(one.messages) != survey.contents[number]:
            raise UserError(f"{one.record.place} changed during reading; run again.")
        yield one, bool(survey.repeated[number]), bool(survey.held_out[number])
    if number + 1 < len(survey.contents):
        raise UserError(f"{files[-1]} changed during reading; run again.")


@dataclass
class _Open:
    """A shard in memory."""

    documents: list[Document] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    tokens: int = 0
    text_bytes: int = 0


class _Packer:
    """Encodes and writes conversations shard by shard, and the tables of dropped and shortened ones."""

    def __init__(self, out: Path, encode: TurnEncoder, context: int, dtype: np.dtype[np.uint16 | np.uint32]):
        self._out, self._encode, self._context, self._dtype = out, encode, context, dtype
        self._open: dict[Split, _Open] = {split: _Open() for split in SPLITS}
        self._files: dict[Split, list[TokenFile]] = {split: [] for split in SPLITS}
        self._dropped = _Table(out / "dropped", _DROPPED)
        self._shortened = _Table(out / "shortened", _SHORTENED)
        self._held_out = _Table(out / "held_out", _HELD_OUT)
        self._counts: Counter[str] = Counter()
        self.tokens = 0

    def drop(self, one: _Read, reason: str, tokens: int | None) -> None:
        """Record a dropped conversation."""
        self._dropped.add(one.record.path, one.record.position, reason, tokens)
        self._counts[f"dropped_{reason.replace(' ', '_')}"] += 1

    def add(self, one: _Read, messages: Sequence[Message], split: Split) -> None:
        """Add a conversation, or the first exchanges that fit."""
        turns = [self._encode(message) for message in messages]
        ends = 1 + np.cumsum([len(turn.ids) for turn in turns])
        fitting = int(np.searchsorted(ends, self._context + 1, side="right"))
        while fitting and messages[fitting - 1].role != "assistant":
            fitting -= 1
        if not fitting:
            self.drop(one, "too long", int(ends[-1]))
            return
        if fitting < len(turns):
            self._shortened.add(one.record.path, one.record.position, int(ends[-1]), len(turns) - fitting)
            self._counts["shortened"] += 1
        kept = turns[:fitting]
        ids = np.concatenate([self._encode.start, *(turn.ids for turn in kept)])
        learned = np.concatenate([[False], *(turn.written for turn in kept)])
        shard = self._open[split]
        shard.documents.append(ids.astype(self._dtype))
        shard.learned.append(learned)
        shard.tokens += len(ids)
        shard.text_bytes += sum(len(message.content.encode()) for message in messages[:fitting])
        self.tokens += len(ids)
        self._counts[f"{split}_learned_tokens"] += int(learned.sum())
        if split == "validation":
            turns_kept = [{"role": turn.role, "content": turn.content} for turn in messages[:fitting]]
            self._held_out.add(one.record.path, one.record.position, turns_kept)
        if shard.tokens >= _SHARD_TOKENS:
            self._write(split)

    def finish(self) -> dict[Split, list[TokenFile]]:
        """Write the open shards and tables, and return all shards."""
        for split, shard in self._open.items():
            if shard.documents:
                self._write(split)
        for table in (self._dropped, self._shortened, self._held_out):
            table.flush()
        return self._files

    def metrics(self, splits: dict[Split, list[TokenFile]]) -> dict[str, Metric]:
        """Return the counts."""
        every = [file for files in splits.values() for file in files]
        rows = sum(file.layout.rows for file in every if file.layout)
        return {
            "tokens": self.tokens,
            **{f"{split}_conversations": sum(file.documents for file in splits[split]) for split in _FILLED},
            **{f"{split}_tokens": sum(file.tokens for file in splits[split]) for split in _FILLED},
            **{f"{split}_learned_tokens": self._counts[f"{split}_learned_tokens"] for split in _FILLED},
            "dropped_duplicate": self._counts["dropped_duplicate"],
            "dropped_too_long": self._counts["dropped_too_long"],
            "shortened": self._counts["shortened"],
            "rows": rows,
            "padding": 1 - (self.tokens - sum(file.documents for file in every)) / (rows * self._context),
        }

    def _write(self, split: Split) -> None:
        shard, self._open[split] = self._open[split], _Open()
        lengths = np.array([len(document) - 1 for document in shard.documents], dtype=np.int64)
        pieces = lay_out_whole(lengths, self._context)
        where = ShardPlace(self._out, split, f"{len(self._files[split]):05d}")
        self._files[split].append(write_shard(where, shard.documents, shard.text_bytes, pieces, shard.learned))


_FILLED: tuple[Split, ...] = ("train", "validation")


class _Table:
    """A table in Parquet files of bounded size."""

    def __init__(self, folder: Path, schema: pa.Schema):
        self._folder, self._schema = folder, schema
        self._rows: list[tuple[object, ...]] = []
        self._files = 0

    def add(self, *row: object) -> None:
        """Add a row."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows; an empty table is written once, so that queries find it."""
        if not self._rows and self._files:
            return
        rows = [dict(zip(self._schema.names, row, strict=True)) for row in self._rows]
        write_parquet(self._folder / f"part-{self._files:05d}.parquet", pa.Table.from_pylist(rows, schema=self._schema))
        self._files, self._rows = self._files + 1, []
