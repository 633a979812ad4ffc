"""Packing conversations from JSON files as tokens with a loss mask on the answers."""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from homegrown.config.finetune_recipe import ConversationRows, InstructionSettings, Shape
from homegrown.data.best_fit import lay_out_whole
from homegrown.data.conversations import Conversation, Malformed, conversation, shape_of
from homegrown.data.index import SPLITS, Index, Split, TokenFile, token_type, write_index
from homegrown.data.instruction_files import Record, find, read
from homegrown.data.shard_files import Document, Learned, ShardPlace, write_shard
from homegrown.tokenizer.chat import Chat, Message, Sample, load_chat, with_system
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.template import Refused
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent

SHORTEST_ROW, LONGEST_ROW = 256, 2048
"""Bounds of the row length that the conversations decide: short rows waste time, long ones memory."""

SHARD_TOKENS = 8_000_000  # in memory at once, each with a byte of loss mask
_ROWS = 10_000  # of a table in memory at once
_OFTEN = 1000  # conversations between two reports of progress
_LISTED_REASONS, _LISTED_PLACES = 20, 100  # in one error message

MESSAGE = [(name, pa.string()) for name in ("role", "content", "reasoning", "tool_calls", "name", "tool_call_id")]
PLACE = [("path", pa.string()), ("position", pa.int64())]
_DROPPED = pa.schema([*PLACE, ("reason", pa.string()), ("tokens", pa.int64())])
_SHORTENED = pa.schema([*PLACE, ("tokens", pa.int64()), ("messages_left_out", pa.int64())])
_HELD_OUT = pa.schema([*PLACE, ("messages", pa.list_(pa.struct(MESSAGE))), ("tools", pa.string())])
SKIPPED = pa.schema([*PLACE, ("reason", pa.string())])
_KEYS = pa.schema([("key", pa.string()), ("records", pa.int64()), *PLACE])


def packing_time() -> datetime:
    """Return the time for templates that name the date: a fixed one, so that the same files give the same tokens."""
    return datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Read:
    """A conversation and its record."""

    record: Record
    shape: Shape
    conversation: Conversation

    @property
    def messages(self) -> list[Message]:
        """The messages of the conversation."""
        return self.conversation.messages


@dataclass(frozen=True)
class Skipped:
    """A record without a conversation, and why."""

    record: Record
    reason: str


@dataclass(frozen=True)
class _Survey:
    """The result of the first pass over all conversations, in the order of the files.

    `contents` uint64 [conversations]: hash of each; `repeated` and `held_out`: bool [conversations]; `row`: the length
    of the rows.
    """

    contents: npt.NDArray[np.uint64]
    repeated: npt.NDArray[np.bool_]
    held_out: npt.NDArray[np.bool_]
    shapes: Counter[Shape]
    row: int


def prepare(
    out: Path,
    tokenizer: Path,
    settings: InstructionSettings,
    *,
    rows: ConversationRows,
    progress: Progress = silent,
) -> Outcome:
    """Pack conversations in the layout best_fit of the stage `pack`, without cutting any.

    A document is a conversation in the model's chat template (`homegrown.tokenizer.chat`); a row is the predictions of
    one or more conversations. Targets are the answers only, each with its stop token. `TokenSplit`, `Batches` and the
    training loop read the folder `out` like any other; its splits are train and validation. A template that changes
    earlier messages makes several documents of a conversation, each with the answers that it fits.

    Files are read twice; 16 bytes per conversation stay in memory. Repeated conversations are dropped. The validation
    split is chosen by a hash of the first question, ignoring case and white space: no question is in both splits, and
    the order of files is irrelevant. A conversation longer than a row keeps the first exchanges that fit, and is
    dropped if the first does not. Malformed records, and conversations that the template does not support, are skipped.
    The Parquet tables `skipped`, `dropped`, `shortened` and `held_out` list these conversations, `ignored_keys` the
    keys of records that were not read.

    Args:
        out: Output folder.
        tokenizer: Folder of the tokenizer and its chat format.
        settings: The files and how to read them.
        rows: Context of the model, and the length of the rows; None: the longest conversation decides, within
            `SHORTEST_ROW` … `LONGEST_ROW` and the context.
        progress: Called with the number of processed conversations.

    Raises:
        UserError: a file cannot be read, too many records are skipped, the questions are fewer than two, the system
            message contains a special token, or nothing fits the rows.
    """
    files = find(settings.files)
    chat = load_chat(tokenizer, clock=packing_time)
    check_system(settings.system, chat)
    encoder = _ConversationEncoder(chat, settings.system)
    if rows.sequence_length is not None and rows.sequence_length > rows.context:
        raise UserError(
            f"training.sequence_length is {rows.sequence_length}, but the base's context is {rows.context}; lower it."
        )
    survey = _survey(files, settings, rows, encoder, progress)
    size = chat.tokenizer.get_vocab_size()
    packer = _Packer(out, encoder, survey.row, np.dtype(token_type(size)))
    number = 0
    for one in _conversations(files, settings):
        if isinstance(one, Skipped):
            packer.skip(one)
            continue
        if number == len(survey.contents) or _content(one.conversation) != survey.contents[number]:
            raise UserError(f"{one.record.place} changed during reading; run again.")
        packer.note_keys(one)
        if survey.repeated[number]:
            packer.drop(one, "duplicate", None)
        else:
            packer.add(one, "validation" if survey.held_out[number] else "train")
        number += 1
        if number % _OFTEN == 0 or number == len(survey.contents):
            progress(number, len(survey.contents), tokens=packer.tokens)
    if number < len(survey.contents):
        raise UserError(f"{files[-1]} changed during reading; run again.")
    packer.skips.check(number, settings.max_skipped)
    splits = packer.finish()
    for split in ("train", "validation"):
        if not splits[split]:
            raise UserError(
                f"No {'training' if split == 'train' else 'validation'} conversation fits rows of {survey.row} tokens; "
                "use shorter ones, raise training.sequence_length, or use a base with a longer context."
            )
    write_index(out, Index(dtype=token_type(size), vocabulary_size=size, context=survey.row, splits=splits))
    shapes: dict[str, Metric] = {f"{shape}_conversations": count for shape, count in survey.shapes.items()}
    kept = packer.conversations
    metrics = packer.metrics(splits) | shapes | {"sequence_length": survey.row}
    return Outcome(rows_in=number + packer.skips.malformed, rows_out=kept, unit="conversations", metrics=metrics)


def check_system(system: str | None, chat: Chat, section: str = "instructions") -> None:
    """Raise UserError for a special token in the system message: the template of an export would make it a token."""
    added = chat.tokenizer.get_added_tokens_decoder().values()
    found = [token.content for token in added if token.special and system and token.content in system]
    if found:
        raise UserError(f"{section}.system contains {found[0]!r}, a special token of the tokenizer; remove it.")


def _conversations(files: Sequence[str], settings: InstructionSettings) -> Iterator[_Read | Skipped]:
    """Yield every record; the first one of a known shape decides that of its file. Raises UserError."""
    for path in files:
        shape = None if settings.shape == "auto" else settings.shape
        empty = True
        for record in read(path):
            empty = False
            if record.problem is not None:
                yield Skipped(record, record.problem)
                continue
            try:
                shape = shape or shape_of(record.value)
                found = conversation(record.value, shape)
            except Malformed as error:
                yield Skipped(record, str(error))
            else:
                yield _Read(record, shape, found)
        if empty:
            raise UserError(f"{path} has no conversations; fill it or remove it from instructions.files.")


class _ConversationEncoder:
    """Encodes conversations with the default system message."""

    def __init__(self, chat: Chat, system: str | None):
        self._chat, self._system = chat, system
        self._encoder = Encoder(chat.tokenizer)

    def messages(self, one: _Read) -> list[Message]:
        """Return the messages with the system message."""
        return with_system(one.messages, self._system)

    def __call__(self, one: _Read) -> list[Sample]:
        """Return the sequences of a conversation; raises Refused."""
        return self._chat.samples(self.messages(one), tools=one.conversation.tools, encode=self._encoder.encode)


def _survey(
    files: Sequence[str],
    settings: InstructionSettings,
    rows: ConversationRows,
    encoder: _ConversationEncoder,
    progress: Progress,
) -> _Survey:
    contents, questions, shapes, skips = array("Q"), array("Q"), Counter[Shape](), Skips()
    most = rows.sequence_length or min(rows.context, LONGEST_ROW)
    row = rows.sequence_length or min(most, SHORTEST_ROW)
    for one in _conversations(files, settings):
        if isinstance(one, Skipped):
            skips.add(one.record, one.reason)
            continue
        contents.append(_content(one.conversation))
        questions.append(question_hash(one.messages))
        shapes[one.shape] += 1
        if row < most:
            row = min(most, max(row, *(len(sample.ids) - 1 for sample in _encoded(encoder, one)), 0))
        if len(contents) % _OFTEN == 0:
            progress(len(contents))
    skips.check(len(contents), settings.max_skipped)
    content = np.frombuffer(contents, dtype=np.uint64)
    repeated = np.ones(len(content), dtype=np.bool_)
    repeated[np.unique(content, return_index=True)[1]] = False
    question = np.frombuffer(questions, dtype=np.uint64)
    return _Survey(content, repeated, question <= last_held_out(question, settings.held_out), shapes, row)


def _encoded(encoder: _ConversationEncoder, one: _Read) -> list[Sample]:
    """Return the sequences of a conversation, none if the template refuses it, which the second pass records."""
    try:
        return encoder(one)
    except Refused:
        return []


class Skips:
    """Skipped records by reason, as many as an error message lists."""

    def __init__(self, section: str = "instructions"):
        """`section` is that of the recipe, for error messages."""
        self._section = section
        self.malformed = 0
        self.refused = 0
        self._places: dict[str, list[Record]] = {}

    def add(self, record: Record, reason: str, *, refused: bool = False) -> None:
        """Count a record; `refused` tells a conversation that the template refuses from a malformed record."""
        self.refused += refused
        self.malformed += not refused
        places = self._places.setdefault(reason, [])
        if len(places) < _LISTED_PLACES:
            places.append(record)

    def check(self, read: int, share: float) -> None:
        """Raise UserError if more than this share of all records is skipped; `read` counts the others and refused."""
        skipped, every = self.malformed + self.refused, read + self.malformed
        if skipped <= share * every:
            return
        listed = "; ".join(_listed(reason, places) for reason, places in [*self._places.items()][:_LISTED_REASONS])
        more = len(self._places) - _LISTED_REASONS
        raise UserError(
            f"{skipped} of {every} records cannot be used, more than {self._section}.max_skipped ({share:g}): {listed}"
            f"{f'; and {more} more reasons' if more > 0 else ''}; fix or remove them."
        )


def _listed(reason: str, records: Sequence[Record]) -> str:
    """Return a reason with its places, those of each file together."""
    by_file: dict[str, list[Record]] = {}
    for record in records:
        by_file.setdefault(record.path, []).append(record)
    first, *files = by_file.values()
    others = [_ranges(first[1:])] if first[1:] else []
    others += [f"{found[0].path}, {found[0].unit} {_ranges(found)}" for found in files]
    more = f" (and {', '.join(others)})" if others else ""
    return f"{first[0].place}{more} {reason}"


def _ranges(records: Sequence[Record]) -> str:
    """Return the positions of records, those that follow each other as a range."""
    runs: list[list[int]] = []
    for record in records:
        if runs and record.position == runs[-1][-1] + 1:
            runs[-1].append(record.position)
        else:
            runs.append([record.position])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def last_held_out(questions: npt.NDArray[np.uint64], share: float, section: str = "instructions") -> np.uint64:
    """Return the greatest held-out hash: the lowest distinct hashes are held out, at least one and not all."""
    different = np.unique(questions)
    if len(different) < 2:
        raise UserError(
            f"{section}.files have fewer than two different questions, one to train on and one to hold out; add some."
        )
    last: np.uint64 = different[max(1, round(share * len(different))) - 1]
    return last


def _content(one: Conversation) -> int:
    """Return a 64-bit hash of a conversation; two of a million collide with a chance of 1 in 10^7."""
    plain = all(message.plain().keys() <= {"role", "content"} and message.trained for message in one.messages)
    if plain and not one.tools:
        text = "\0".join(part for message in one.messages for part in (message.role, message.content))
    else:
        text = json.dumps([[asdict(message) for message in one.messages], one.tools])
    return xxhash.xxh3_64_intdigest(text.encode())


def question_hash(messages: Sequence[Message]) -> int:
    """Return a 64-bit hash of the first question, ignoring case and white space."""
    question = next(message.content for message in messages if message.role == "user")
    return xxhash.xxh3_64_intdigest(("question\0" + " ".join(question.casefold().split())).encode())


def held_out_row(message: Message) -> dict[str, str | None]:
    """Return a message as a row of the table `held_out`; its tool calls are JSON."""
    calls = json.dumps(message.tool_calls) if message.tool_calls else None
    return {
        "role": message.role,
        "content": message.content,
        "reasoning": message.reasoning,
        "tool_calls": calls,
        "name": message.name,
        "tool_call_id": message.tool_call_id,
    }


def held_out_message(row: dict[str, Any]) -> Message:
    """Return the message of a row of the table `held_out`."""
    return Message(**(row | {"tool_calls": tuple(json.loads(row.get("tool_calls") or "[]"))}))


@dataclass
class _Open:
    """A shard in memory."""

    documents: list[Document] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    tokens: int = 0
    text_bytes: int = 0


class _Packer:
    """Encodes and writes conversations shard by shard, and the tables of dropped and shortened ones."""

    def __init__(self, out: Path, encode: _ConversationEncoder, row: int, dtype: np.dtype[np.uint16 | np.uint32]):
        self._out, self._encode, self._row, self._dtype = out, encode, row, dtype
        self._open: dict[Split, _Open] = {split: _Open() for split in SPLITS}
        self._files: dict[Split, list[TokenFile]] = {split: [] for split in SPLITS}
        self._dropped = Table(out / "dropped", _DROPPED)
        self._shortened = Table(out / "shortened", _SHORTENED)
        self._held_out = Table(out / "held_out", _HELD_OUT)
        self._skipped = Table(out / "skipped", SKIPPED)
        self._ignored: dict[str, tuple[int, Record]] = {}
        self._counts: Counter[str] = Counter()
        self.skips = Skips()
        self.tokens = 0

    def skip(self, one: Skipped, *, refused: bool = False) -> None:
        """Record a skipped record."""
        self._skipped.add(one.record.path, one.record.position, one.reason)
        self.skips.add(one.record, one.reason, refused=refused)

    def note_keys(self, one: _Read) -> None:
        """Count the keys of a record that were not read."""
        for key in one.conversation.ignored:
            count, first = self._ignored.get(key, (0, one.record))
            self._ignored[key] = count + 1, first

    def drop(self, one: _Read, reason: str, tokens: int | None) -> None:
        """Record a dropped conversation."""
        self._dropped.add(one.record.path, one.record.position, reason, tokens)
        self._counts[f"dropped_{reason.replace(' ', '_')}"] += 1

    def add(self, one: _Read, split: Split) -> None:
        """Add a conversation, or the first exchanges that fit."""
        try:
            samples = self._encode(one)
        except Refused as refusal:
            self.skip(Skipped(one.record, f"is not supported: {str(refusal).rstrip('.')}"), refused=True)
            return
        messages = self._encode.messages(one)
        longest = max(len(sample.ids) for sample in samples)
        kept = [fitting for sample in samples if (fitting := sample.shortened(self._row + 1))]
        if not any(sample.learned.any() for sample in kept):
            self.drop(one, "too long", longest)
            return
        end = max(sample.cuts[-1][1] for sample in kept)
        if end < len(messages) or len(kept) < len(samples):
            self._shortened.add(one.record.path, one.record.position, longest, len(messages) - end)
            self._counts["shortened"] += 1
        shard = self._open[split]
        for sample in kept:
            if not sample.learned.any():
                continue
            shard.documents.append(sample.ids.astype(self._dtype))
            shard.learned.append(sample.learned)
            shard.tokens += len(sample.ids)
            self.tokens += len(sample.ids)
            self._counts[f"{split}_learned_tokens"] += int(sample.learned.sum())
        shard.text_bytes += sum(len(message.content.encode()) for message in messages[:end])
        self._counts[f"{split}_conversations"] += 1
        if split == "validation":
            tools = json.dumps(one.conversation.tools) if one.conversation.tools else None
            rows = [held_out_row(message) for message in messages[:end]]
            self._held_out.add(one.record.path, one.record.position, rows, tools)
        if shard.tokens >= SHARD_TOKENS:
            self._write(split)

    def finish(self) -> dict[Split, list[TokenFile]]:
        """Write the open shards and tables, and return all shards."""
        for split, shard in self._open.items():
            if shard.documents:
                self._write(split)
        keys = Table(self._out / "ignored_keys", _KEYS)
        for key, (count, first) in sorted(self._ignored.items()):
            keys.add(key, count, first.path, first.position)
        for table in (self._dropped, self._shortened, self._held_out, self._skipped, keys):
            table.flush()
        return self._files

    @property
    def conversations(self) -> int:
        """The number of conversations added."""
        return sum(self._counts[f"{split}_conversations"] for split in _FILLED)

    def metrics(self, splits: dict[Split, list[TokenFile]]) -> dict[str, Metric]:
        """Return the counts."""
        every = [file for files in splits.values() for file in files]
        rows = sum(file.layout.rows for file in every if file.layout)
        return {
            "tokens": self.tokens,
            **{f"{split}_conversations": self._counts[f"{split}_conversations"] for split in _FILLED},
            **{f"{split}_rows": sum(file.layout.rows for file in splits[split] if file.layout) for split in _FILLED},
            **{f"{split}_tokens": sum(file.tokens for file in splits[split]) for split in _FILLED},
            **{f"{split}_learned_tokens": self._counts[f"{split}_learned_tokens"] for split in _FILLED},
            "dropped_duplicate": self._counts["dropped_duplicate"],
            "dropped_too_long": self._counts["dropped_too_long"],
            "shortened": self._counts["shortened"],
            "skipped": self.skips.malformed + self.skips.refused,
            "ignored_keys": len(self._ignored),
            "rows": rows,
            "padding": 1 - (self.tokens - sum(file.documents for file in every)) / (rows * self._row),
        }

    def _write(self, split: Split) -> None:
        shard, self._open[split] = self._open[split], _Open()
        lengths = np.array([len(document) - 1 for document in shard.documents], dtype=np.int64)
        pieces = lay_out_whole(lengths, self._row)
        where = ShardPlace(self._out, split, f"{len(self._files[split]):05d}")
        self._files[split].append(write_shard(where, shard.documents, shard.text_bytes, pieces, shard.learned))


_FILLED: tuple[Split, ...] = ("train", "validation")


class Table:
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
