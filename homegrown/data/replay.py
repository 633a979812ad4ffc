"""The stage `replay`: other text, and conversations, mixed into the training documents of continued pretraining.

Replay reduces what a model forgets (Ibrahim et al. 2024).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from homegrown.config.adaptation import ReplaySettings
from homegrown.config.corpus import IngestSettings, ShardSettings
from homegrown.corpus.documents import QUARANTINE, SCHEMA, document_id
from homegrown.corpus.heldout import HeldOut, Signer, most_similar
from homegrown.corpus.ingest import ingest
from homegrown.corpus.split_choice import hashes
from homegrown.data.conversations import Malformed, conversation, shape_of
from homegrown.data.index import SPLITS
from homegrown.data.instruction_files import find, read
from homegrown.data.packing import TEMPLATED, special_tokens_encoder
from homegrown.tokenizer.chat import Chat, load_chat
from homegrown.tokenizer.sample import read_shard, text_bytes
from homegrown.tokenizer.special import special_ids
from homegrown.tokenizer.template import Refused
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts, write_parquet
from homegrown.util.progress import Outcome, Progress, silent
from homegrown.util.seeds import derive

CONVERSATIONS = "conversations"
"""The source of replayed conversations in the table of documents."""

_COLUMNS = SCHEMA.names
_MEGABYTE = 1_000_000
_WRITTEN = 4096  # conversations in one file


def replay(
    out: Path,
    shards: Path,
    base: Path,
    settings: ReplaySettings,
    reading: IngestSettings,
    splitting: ShardSettings,
    *,
    seed: int,
    executor: Executor,
    progress: Progress = silent,
) -> Outcome:
    """Copy the document shards in `shards`, and add other documents to the split train.

    The other documents are the text of `settings.sources`, read with the limits of `reading`, and
    `settings.conversations` in the chat template of the model in `base`. A seeded hash of the id orders them; as many
    are added as make `settings.share` of the training text, the last one cut unless it is a conversation. A document
    with an estimated Jaccard similarity of `splitting.max_similarity` or more to a held-out one is left out.
    `quarantine` lists unreadable input and skipped conversations.

    Raises:
        UserError: a source or file is missing, nothing can be read, or the model has no chat template.
    """
    work = out / "work"
    parts = [(part, False) for part in _text(work / "text", out, settings, reading, executor)]
    parts += [(part, True) for part in _conversations(work / CONVERSATIONS, out, settings, base)]
    train = sum(int(text_bytes(batch).sum()) for part in parquet_parts(shards / "train") for batch in _rows(part))
    progress(1, 3)
    held_out = _held_out(shards, splitting, seed)
    chosen = _choose(parts, held_out, splitting, train * settings.share / (1 - settings.share), derive(seed, "replay"))
    progress(2, 3)
    number = 0
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
        for number, part in enumerate(parquet_parts(shards / split)):
            shutil.copyfile(part, out / split / f"part-{number:05d}.parquet")
    first = len(parquet_parts(shards / "train"))
    written = _write(out / "train", parts, chosen, first, int(splitting.shard_mb * _MEGABYTE))
    shutil.rmtree(work)
    progress(3, 3)
    added = int(chosen.kept.sum())
    return Outcome(
        rows_in=len(chosen.kept),
        rows_out=written,
        metrics={
            "replay_bytes": added,
            "replay_share": added / max(1, added + train),
            "similar_to_held_out": chosen.similar,
        },
    )


def _text(work: Path, out: Path, settings: ReplaySettings, reading: IngestSettings, executor: Executor) -> list[Path]:
    """Read the sources; return the shards of their documents."""
    if not settings.sources:
        return []
    ingest(work, reading.model_copy(update={"sources": settings.sources}), executor=executor)
    for part in parquet_parts(work / "quarantine"):
        write_parquet(out / "quarantine" / f"text-{part.name}", pq.ParquetFile(part).read())
    return parquet_parts(work / "documents")


def _conversations(work: Path, out: Path, settings: ReplaySettings, base: Path) -> list[Path]:
    """Render the conversations in the chat template of the base; return the shards of their documents."""
    if not settings.conversations:
        return []
    chat, encode = load_chat(base), special_tokens_encoder(base)
    documents: list[dict[str, object]] = []
    skipped: list[dict[str, object]] = []
    parts = 0

    def flush() -> None:
        nonlocal parts
        if documents:
            write_parquet(work / f"part-{parts:05d}.parquet", pa.Table.from_pylist(documents, SCHEMA))
            parts += 1
            documents.clear()

    for path in find(settings.conversations, "replay.conversations"):
        for record in read(path):
            place = {"source": CONVERSATIONS, "path": path, "position": record.position}
            try:
                text = _rendered(chat, encode, record.value) if record.problem is None else None
            except (Malformed, Refused) as error:
                skipped.append({**place, "reason": str(error)})
                continue
            if text is None:
                skipped.append({**place, "reason": f"{record.unit} {record.problem}"})
                continue
            documents.append({"id": document_id(CONVERSATIONS, path, text), "text": text, **place})
            if len(documents) == _WRITTEN:
                flush()
    flush()
    write_parquet(out / "quarantine" / "conversations.parquet", pa.Table.from_pylist(skipped, QUARANTINE))
    if not parts:
        reason = f"; the first is in {skipped[0]['path']}: {skipped[0]['reason']}" if skipped else ""
        raise UserError(f"replay.conversations has no usable conversation{reason}.")
    return parquet_parts(work)


def _rendered(chat: Chat, encode: Callable[[str], npt.NDArray[np.uint32]], value: object) -> str:
    """Return the text of a conversation between the marks of a document; raise Malformed or Refused."""
    found = conversation(value, shape_of(value))
    ids = chat.encode(found.messages, reply=False, tools=found.tools)
    marks = special_ids(chat.tokenizer)
    if ids and ids[0] == marks.start:
        ids = ids[1:]
    if ids and ids[-1] == marks.eos:
        ids = ids[:-1]
    text: str = chat.tokenizer.decode(ids, skip_special_tokens=False)
    if encode(text).tolist() != ids:
        raise Refused("The conversation contains the text of a special token.")
    return text


def _rows(part: Path) -> Iterator[pa.RecordBatch]:
    return read_shard(part, ["id", "text"])


def _held_out(shards: Path, splitting: ShardSettings, seed: int) -> HeldOut:
    signer = Signer(splitting.max_similarity, seed % 2**32)
    for split in SPLITS[1:]:
        for part in parquet_parts(shards / split):
            for batch in _rows(part):
                signer.add(signer.sign(batch["text"]))
    return signer.finish()


@dataclass(frozen=True)
class _Choice:
    """Of all other documents in order: the bytes to keep, int64; `similar`: how many are similar to a held-out one."""

    kept: npt.NDArray[np.int64]
    similar: int


@dataclass
class _Facts:
    """Facts of the other documents, batch by batch."""

    sizes: list[npt.NDArray[np.int64]] = field(default_factory=list)
    keys: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    similar: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    templated: list[npt.NDArray[np.bool_]] = field(default_factory=list)


def _choose(
    parts: Iterable[tuple[Path, bool]], held_out: HeldOut, splitting: ShardSettings, budget: float, seed: int
) -> _Choice:
    """Choose documents in the order of their hashes until they have `budget` bytes."""
    facts = _Facts()
    for part, templated in parts:
        for batch in _rows(part):
            facts.templated.append(np.full(len(batch), templated))
            facts.sizes.append(text_bytes(batch))
            facts.keys.append(np.array([key for _, key in hashes(batch["id"], seed)], np.uint64))
            nearest, _ = most_similar(batch["text"], held_out, splitting.max_similarity)
            facts.similar.append(nearest >= 0)
    sizes, similar = np.concatenate(facts.sizes), np.concatenate(facts.similar)
    order = np.argsort(np.concatenate(facts.keys), kind="stable")
    order = order[~similar[order]]
    before = np.cumsum(sizes[order]) - sizes[order]
    kept = np.zeros(len(sizes), np.int64)
    kept[order] = np.minimum(sizes[order], np.maximum(0, np.ceil(budget - before)))
    complete = (kept > 0) & np.concatenate(facts.templated)
    kept[complete] = sizes[complete]
    return _Choice(kept, int(similar.sum()))


def _write(folder: Path, parts: list[tuple[Path, bool]], chosen: _Choice, number: int, shard_bytes: int) -> int:
    """Write the taken documents as shards from `number` on; return how many there are."""
    place = written = 0
    for templated in (False, True):
        waiting: list[pa.RecordBatch] = []
        size = 0
        for part, own in parts:
            if own is not templated:
                continue
            for batch in read_shard(part, _COLUMNS):
                taken = _taken(batch.select(_COLUMNS), chosen.kept[place : place + len(batch)])
                place += len(batch)
                if not taken.num_rows:
                    continue
                waiting.append(taken)
                size += int(pc.sum(pc.binary_length(taken["text"])).as_py())
                written += taken.num_rows
                if size >= shard_bytes:
                    _write_shard(folder, number, waiting, templated)
                    number, waiting, size = number + 1, [], 0
        if waiting:
            _write_shard(folder, number, waiting, templated)
            number += 1
    return written


def _taken(batch: pa.RecordBatch, kept: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Return the documents of which some bytes are kept, cut to these."""
    sizes, rows = text_bytes(batch), np.flatnonzero(kept)
    taken = batch.take(pa.array(rows))
    texts = [
        text if size <= most else text.encode()[:most].decode(errors="ignore")
        for text, size, most in zip(taken["text"].to_pylist(), sizes[rows], kept[rows], strict=True)
    ]
    return taken.set_column(SCHEMA.get_field_index("text"), SCHEMA.field("text"), pa.array(texts, pa.string()))


def _write_shard(folder: Path, number: int, batches: list[pa.RecordBatch], templated: bool) -> None:
    table = pa.Table.from_batches(batches)
    marked = table.replace_schema_metadata({TEMPLATED: b"true"} if templated else None)
    write_parquet(folder / f"part-{number:05d}.parquet", marked)
