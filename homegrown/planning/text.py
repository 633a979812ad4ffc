"""The training tokens of a recipe: counted if its text is packed, else estimated from its sources."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from homegrown.config.corpus import AnySource, FilesSource, PackagesSource
from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.config.recipe import Recipe
from homegrown.corpus.records import MEGABYTE
from homegrown.model.config import ModelConfig
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.store.runs import recorded
from homegrown.util.errors import UserError

_UP_TO_PACK = ("seed", "base", "replay", "ingest", "dedup", "filter", "shard", "tokenizer", "pack")

_BYTES_PER_TOKEN = {512: 1.87, 1024: 2.4, 4096: 3.25, 16384: 3.95, 32768: 4.2}
"""By vocabulary size: the mean of English Wikipedia and Python documentation, held out from 14 and 18 MB; for
512 tokens by the ratio that Shakespeare has to 1,024."""

_KEPT_SHARE = 0.92
"""Share of the text that the corpus stages keep, measured with `tiny`; filters of web text drop far more."""

_DOCUMENTED_SHARE = 1 / 8
"""Share of documentation in Python source (`homegrown.corpus.ingest_plan`)."""

_COMPRESSION = 3.0
"""Ratio for English text with gzip; other formats differ."""

_PACKED = (".gz", ".zst", ".bz2", ".xz", ".parquet", ".zip", ".epub")


@dataclass(frozen=True)
class Text:
    """Available training tokens and bytes of text that ingest reads, None if unknown, and their origin.

    `by_source` has the tokens of each source that is known, if the recipe mixes them.
    """

    tokens: int | None
    counted: bool
    source: str
    bytes: int | None
    by_source: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MixedSource:
    """What a training reads of a source of its mixture: tokens, and epochs, None where its text is unknown."""

    name: str
    tokens: int
    epochs: float | None


def mixed_sources(recipe: Recipe, text: Text, tokens: int) -> list[MixedSource]:
    """Return what a training on `tokens` reads of each source; nothing without a mixture or where one is unknown."""
    read: Counter[str] = Counter()
    for phase in recipe.pack.mixture or []:
        weights = {
            name: weight.tokens
            if weight.epochs is None
            else weight.epochs and weight.epochs * text.by_source.get(name, math.nan)
            for name, weight in phase.weights.items()
        }
        total = sum(weight or 0 for weight in weights.values())
        if not math.isfinite(total):
            return []
        for name, weight in weights.items():
            read[name] += round(tokens * phase.share * (weight or 0) / total) if total else 0
    return [
        MixedSource(name, count, count / text.by_source[name] if text.by_source.get(name) else None)
        for name, count in sorted(read.items())
    ]


def text_of(store: Store, recipe: Recipe, vocabulary_size: int) -> Text:
    """Return the text that the recipe trains on."""
    packed = made_by(store, recipe, "pack", _UP_TO_PACK)
    if packed:
        read = next((one for one in store.lineage(packed) if one.manifest.stage == "ingest"), None)
        size = int(read.manifest.metrics["text_bytes"]) if read else None
        metrics = packed.manifest.metrics
        names = {name for phase in recipe.pack.mixture or [] for name in phase.weights}
        counted = {
            name: int(metrics[f"mixture_{name}_tokens"]) for name in names if f"mixture_{name}_tokens" in metrics
        }
        return Text(int(metrics["train_tokens"]), True, packed.name, size, counted)
    sizes = [_size(source) for source in recipe.ingest.sources]
    known = [size for size in sizes if size is not None]
    held_out = recipe.shard.validation_share + recipe.shard.test_share
    rate = _KEPT_SHARE * (1 - held_out) / bytes_per_token(vocabulary_size)
    sources = zip(recipe.ingest.sources, sizes, strict=True)
    each = {source.name: int(size * rate) for source, size in sources if size is not None and recipe.pack.mixture}
    if len(known) < len(sizes):
        return Text(None, False, "unknown until ingest has read the sources", None, each)
    kept = sum(known) * _KEPT_SHARE * (1 - held_out)
    if recipe.replay is not None:
        kept /= 1 - recipe.replay.share
    tokens = int(kept / bytes_per_token(vocabulary_size))
    return Text(tokens, False, "estimated from the size of the sources", sum(known), each)


_MARKED = 6
"""Tokens that a chat template usually adds to a message."""


@dataclass(frozen=True)
class Conversations:
    """The conversations that a fine-tuning trains on, in `rows` of `length` tokens."""

    text: Text
    rows: int
    length: int


def conversations_of(store: Store, recipe: FinetuneRecipe, config: ModelConfig) -> Conversations:
    """Return the conversations of the recipe for a base with this configuration: counted if packed, else estimated.

    Raises:
        UserError: a file of conversations is missing or unreadable.
    """
    packed = _packed(store, recipe)
    if packed:
        from homegrown.data.index import read_index

        metrics, length = packed.manifest.metrics, read_index(packed.path).context or config.context
        text = Text(int(metrics["train_tokens"]), True, packed.name, None)
        return Conversations(text, int(metrics["train_rows"]), length)

    from homegrown.data.instruction_files import find, read
    from homegrown.data.instructions import LONGEST_ROW, SHORTEST_ROW

    rate, sizes = bytes_per_token(config.vocabulary_size), [0.0]
    for file in find(recipe.instructions.files):
        for record in read(file):
            texts = list(_strings(record.value))
            sizes.append(sum(len(text.encode()) for text in texts) / rate + _MARKED * len(texts))
    tokens = int(sum(sizes) * (1 - recipe.instructions.held_out))
    most = min(config.context, LONGEST_ROW)
    length = recipe.training.sequence_length or min(most, max(SHORTEST_ROW, int(max(sizes))))
    source = "estimated from the size of the conversations"
    return Conversations(Text(tokens, False, source, None), max(1, -(-tokens // length)), length)


def _packed(store: Store, recipe: FinetuneRecipe) -> Artifact | None:
    """Return the conversations that the last run with the same base and files packed, if they still exist."""

    def determining(values: dict[str, Any]) -> list[Any]:
        parts = [values.get(name) for name in ("base", "tokenizer", "instructions")]
        return [*parts, (values.get("training") or {}).get("sequence_length")]

    wanted = determining(recipe.model_dump(mode="json"))
    made = {one.manifest.key: one for one in store.all() if one.manifest.stage == "instructions"}
    runs = reversed(recorded(store).values())
    keys = (run.keys.get("instructions", "") for run in runs if determining(run.recipe) == wanted)
    return next((made[key] for key in keys if key in made), None)


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts of a record, whatever its shape, without short labels such as roles."""
    if isinstance(value, str):
        if len(value) > len("assistant"):
            yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def made_by(store: Store, recipe: Recipe, stage: str, sections: tuple[str, ...]) -> Artifact | None:
    """Return the artifact of `stage` from the last run whose recipe has the same `sections`, if it still exists."""
    wanted = recipe.model_dump(mode="json", include=set(sections))
    for run in reversed(recorded(store).values()):
        if stage in run.keys and {name: run.recipe.get(name) for name in sections} == wanted:
            for artifact in store.all():
                if (artifact.manifest.stage, artifact.manifest.key) == (stage, run.keys[stage]):
                    return artifact
    return None


def bytes_per_token(vocabulary_size: int) -> float:
    """Return the usual bytes of English text per token of byte-level BPE, interpolated between measured sizes."""
    sizes = np.log2(list(_BYTES_PER_TOKEN))
    return float(np.interp(np.log2(vocabulary_size), sizes, list(_BYTES_PER_TOKEN.values())))


def _size(source: AnySource) -> int | None:
    """Return the bytes of text of a source, None if only reading it tells."""
    limit = None if source.limit_mb is None else int(source.limit_mb * MEGABYTE)
    found = _found(source)
    if found is None:
        return limit
    kept = int(found * source.weight)
    return kept if limit is None else min(kept, limit)


@cache
def _documentation_bytes(constraints: str | None) -> int:
    from homegrown.corpus import packages

    return int(_DOCUMENTED_SHARE * sum(piece.size for piece in packages.modules(constraints)))


def _found(source: AnySource) -> int | None:
    # The readers' libraries are slow to import, and most commands do not need them.
    from homegrown.corpus.sources import find_files

    if isinstance(source, PackagesSource):
        return _documentation_bytes(source.constraints)
    if not isinstance(source, FilesSource):
        return None
    try:
        pieces = find_files(source).files
    except UserError:
        # Ingest refuses a missing file; a plan for another machine works without it.
        return None
    return int(sum(piece.size * (_COMPRESSION if piece.locator.endswith(_PACKED) else 1) for piece in pieces))
