"""Packing pairs of answers, a better and a worse one to the same prompt, side by side in rows."""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from homegrown.config.finetune_recipe import ConversationRows, PreferenceSettings
from homegrown.data.best_fit import Pieces, best_fit
from homegrown.data.conversations import Malformed, Pair, pair
from homegrown.data.index import SPLITS, Index, Split, TokenFile, token_type, write_index
from homegrown.data.instruction_files import Record, find, read
from homegrown.data.instructions import (
    LONGEST_ROW,
    MESSAGE,
    PLACE,
    SHARD_TOKENS,
    SHORTEST_ROW,
    SKIPPED,
    Skipped,
    Skips,
    Table,
    check_system,
    held_out_row,
    last_held_out,
    packing_time,
    question_hash,
)
from homegrown.data.shard_files import Document, Learned, ShardPlace, write_shard
from homegrown.tokenizer.chat import Chat, Message, Sample, load_chat, with_system
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.template import Refused
from homegrown.util.errors import UserError
from homegrown.util.progress import Metric, Outcome, Progress, silent

SECTION = "preferences"
_OFTEN = 1000  # pairs between two reports of progress

_MESSAGES = pa.list_(pa.struct(MESSAGE))
_HELD_OUT = pa.schema(
    [*PLACE, ("messages", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES), ("tools", pa.string())]
)
_DROPPED = pa.schema([*PLACE, ("reason", pa.string())])
_KEYS = pa.schema([("key", pa.string()), ("records", pa.int64()), *PLACE])


@dataclass(frozen=True)
class _Read:
    """A pair that fits a row, its record, and the sequences of its chosen and its rejected answer."""

    record: Record
    pair: Pair
    samples: tuple[Sample, Sample]

    @property
    def length(self) -> int:
        """The tokens that the pair takes in a row."""
        return sum(len(sample.ids) - 1 for sample in self.samples)


@dataclass
class _Open:
    """A shard in memory: documents come in twos, chosen and rejected."""

    documents: list[Document] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    tokens: int = 0
    text_bytes: int = 0


def prepare_pairs(
    out: Path, tokenizer: Path, settings: PreferenceSettings, *, rows: ConversationRows, progress: Progress = silent
) -> Outcome:
    """Pack pairs in the layout best_fit: the documents of a pair, chosen and rejected, follow each other in one row.

    A document is the prompt and one answer in the model's chat template; its targets are the tokens of the answer with
    its stop token. Without a system message in `settings`, that of the model is the default. Malformed and too long
    pairs are skipped, repeated pairs are dropped; the validation split is chosen by the first question, as for
    conversations, unless a record with that question has `held_out`. Tables `skipped`, `dropped`, `held_out` and
    `ignored_keys` list records and keys.

    Args:
        out: Output folder.
        tokenizer: Folder of the tokenizer and its chat format.
        settings: The files and how to read them.
        rows: Context of the model, which bounds each answer with its prompt, and the length of the rows, which hold
            both; None: the longest pair decides, within twice the bounds for conversations.
        progress: Called with the number of processed pairs.

    Raises:
        UserError: a file cannot be read, too many records are skipped, the prompts are fewer than two, the system
            message contains a special token, or training.sequence_length is too long.
    """
    files = find(settings.files, f"{SECTION}.files")
    chat = load_chat(tokenizer, clock=packing_time)
    check_system(settings.system, chat, SECTION)
    if rows.sequence_length is not None and rows.sequence_length > 2 * rows.context:
        raise UserError(
            f"training.sequence_length is {rows.sequence_length}, but a pair needs at most twice the base's context of "
            f"{rows.context}; lower it."
        )
    contents, questions, skips = array("Q"), array("Q"), Skips(SECTION)
    marked = dict[int, bool]()
    most = rows.sequence_length or 2 * min(rows.context, LONGEST_ROW)
    row = rows.sequence_length or min(most, 2 * SHORTEST_ROW)
    encoder = _PairEncoder(chat, settings.system or chat.system, min(rows.context, most), most)
    for one in _pairs(files, encoder):
        if isinstance(one, Skipped):
            skips.add(one.record, one.reason)
            continue
        contents.append(_content(one.pair))
        questions.append(question_hash(one.pair.prompt))
        if one.pair.held_out is not None:
            marked[questions[-1]] = marked.get(questions[-1], False) or one.pair.held_out
        row = max(row, one.length)
        if len(contents) % _OFTEN == 0:
            progress(len(contents))
    skips.check(len(contents), settings.max_skipped)
    question = np.frombuffer(questions, dtype=np.uint64)
    held_out = _held_out(question, marked, settings.held_out)
    size = chat.tokenizer.get_vocab_size()
    packer = _PairPacker(out, row, np.dtype(token_type(size)))
    seen, number = set[int](), 0
    for one in _pairs(files, encoder):
        if isinstance(one, Skipped):
            packer.skip(one)
            continue
        content = _content(one.pair)
        if number == len(contents) or content != contents[number]:
            raise UserError(f"{one.record.place} changed during reading; run again.")
        packer.note_keys(one)
        if content in seen:
            packer.drop(one)
        else:
            split: Split = "validation" if int(question[number]) in held_out else "train"
            packer.add(one, encoder.prompt(one.pair), split)
        seen.add(content)
        number += 1
        if number % _OFTEN == 0 or number == len(contents):
            progress(number, len(contents), tokens=packer.tokens)
    if number < len(contents):
        raise UserError(f"{files[-1]} changed during reading; run again.")
    splits = packer.finish()
    write_index(out, Index(dtype=token_type(size), vocabulary_size=size, context=row, splits=splits))
    metrics = packer.metrics(splits) | {"sequence_length": row}
    return Outcome(number + packer.skipped, packer.pairs, "pairs", metrics)


def _held_out(questions: npt.NDArray[np.uint64], marked: dict[int, bool], share: float) -> set[int]:
    """Return the held-out questions: those marked as such by their records, and a share of those without a mark."""
    different = {int(question) for question in np.unique(questions)}
    found = {question for question, held_out in marked.items() if held_out}
    if unmarked := different - marked.keys():
        if len(unmarked) > 1 or not marked:
            last = last_held_out(np.array(sorted(unmarked), dtype=np.uint64), share, SECTION)
            found |= {question for question in unmarked if question <= int(last)}
    if not found or found == different:
        raise UserError(
            f"{SECTION}.files hold out {'all' if found else 'none'} of their {len(different)} questions by 'held_out'; "
            "give both true and false."
        )
    return found


def _pairs(files: Sequence[str], encode: "_PairEncoder") -> Iterator[_Read | Skipped]:
    """Yield every record. Raises UserError."""
    for path in files:
        empty = True
        for record in read(path):
            empty = False
            if record.problem is not None:
                yield Skipped(record, record.problem)
                continue
            try:
                found = pair(record.value)
                samples = encode(found)
            except Malformed as error:
                yield Skipped(record, str(error))
            except Refused as refusal:
                yield Skipped(record, f"is not supported: {str(refusal).rstrip('.')}")
            else:
                yield _Read(record, found, samples)
        if empty:
            raise UserError(f"{path} has no pairs; fill it or remove it from {SECTION}.files.")


class _PairEncoder:
    """Encodes pairs with the default system message.

    `longest` limits the tokens of a prompt with one answer, `row` those of a prompt with both.
    """

    def __init__(self, chat: Chat, system: str | None, longest: int, row: int):
        self._chat, self._system, self._encoder = chat, system, Encoder(chat.tokenizer)
        self._longest, self._row = longest, row

    def prompt(self, one: Pair) -> list[Message]:
        """Return the prompt with the system message; the loss covers none of its answers."""
        return [replace(message, trained=False) for message in with_system(one.prompt, self._system)]

    def __call__(self, one: Pair) -> tuple[Sample, Sample]:
        """Return the sequences of the chosen and the rejected answer; raises Malformed if too long, or Refused."""
        prompt, encode = self.prompt(one), self._encoder.encode
        chosen, rejected = (
            self._chat.samples([*prompt, replace(answer, trained=True)], tools=one.tools, encode=encode)[-1]
            for answer in (one.chosen, one.rejected)
        )
        lengths = [len(sample.ids) - 1 for sample in (chosen, rejected)]
        if max(lengths) > self._longest:
            raise Malformed(f"is too long: the prompt with one answer may have {self._longest} tokens")
        if sum(lengths) > self._row:
            raise Malformed(f"is too long: the prompt with both answers may have {self._row} tokens")
        return chosen, rejected


def _content(one: Pair) -> int:
    """Return a 64-bit hash of a pair."""
    messages = [asdict(message) for message in (*one.prompt, one.chosen, one.rejected)]
    return xxhash.xxh3_64_intdigest(json.dumps([messages, one.tools]).encode())


class _PairPacker:
    """Writes pairs shard by shard, and the tables of the others."""

    def __init__(self, out: Path, row: int, dtype: np.dtype[np.uint16 | np.uint32]):
        self._out, self._row, self._dtype = out, row, dtype
        self._open: dict[Split, _Open] = {split: _Open() for split in SPLITS}
        self._files: dict[Split, list[TokenFile]] = {split: [] for split in SPLITS}
        self._dropped = Table(out / "dropped", _DROPPED)
        self._held_out = Table(out / "held_out", _HELD_OUT)
        self._skipped = Table(out / "skipped", SKIPPED)
        self._ignored: dict[str, tuple[int, Record]] = {}
        self.tokens = self.pairs = self.skipped = self._duplicates = 0

    def skip(self, one: Skipped) -> None:
        """Record a skipped record."""
        self._skipped.add(one.record.path, one.record.position, one.reason)
        self.skipped += 1

    def note_keys(self, one: _Read) -> None:
        """Count the keys of a record that were not read."""
        for key in one.pair.ignored:
            count, first = self._ignored.get(key, (0, one.record))
            self._ignored[key] = count + 1, first

    def drop(self, one: _Read) -> None:
        """Record a repeated pair."""
        self._dropped.add(one.record.path, one.record.position, "duplicate")
        self._duplicates += 1

    def add(self, one: _Read, prompt: Sequence[Message], split: Split) -> None:
        """Add a pair; `prompt` is that of its sequences."""
        shard = self._open[split]
        for sample, answer in zip(one.samples, (one.pair.chosen, one.pair.rejected), strict=True):
            shard.documents.append(sample.ids.astype(self._dtype))
            shard.learned.append(sample.learned)
            shard.tokens += len(sample.ids)
            self.tokens += len(sample.ids)
            shard.text_bytes += len(answer.content.encode())
        self.pairs += 1
        if split == "validation":
            tools = json.dumps(one.pair.tools) if one.pair.tools else None
            asked = [held_out_row(message) for message in prompt]
            answers = [[held_out_row(answer)] for answer in (one.pair.chosen, one.pair.rejected)]
            self._held_out.add(one.record.path, one.record.position, asked, *answers, tools)
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
        for table in (self._dropped, self._held_out, self._skipped, keys):
            table.flush()
        return self._files

    def metrics(self, splits: dict[Split, list[TokenFile]]) -> dict[str, Metric]:
        """Return the counts."""
        filled: tuple[Split, Split] = ("train", "validation")
        return {
            "tokens": self.tokens,
            **{f"{split}_pairs": sum(file.documents for file in splits[split]) // 2 for split in filled},
            **{f"{split}_rows": sum(file.layout.rows for file in splits[split] if file.layout) for split in filled},
            "dropped_duplicate": self._duplicates,
            "skipped": self.skipped,
            "ignored_keys": len(self._ignored),
        }

    def _write(self, split: Split) -> None:
        shard, self._open[split] = self._open[split], _Open()
        lengths = np.array([len(document) - 1 for document in shard.documents], dtype=np.int64)
        row = np.repeat(best_fit(lengths.reshape(-1, 2).sum(1), self._row), 2)
        order: npt.NDArray[np.int64] = np.argsort(row, kind="stable")
        pieces = Pieces(row[order], order, np.zeros_like(lengths), lengths[order])
        where = ShardPlace(self._out, split, f"{len(self._files[split]):05d}")
        self._files[split].append(write_shard(where, shard.documents, shard.text_bytes, pieces, shard.learned))
