"""Whether a recipe can succeed on its text at all: vocabulary, context and documents against the sizes of its sources.

Only what surely fails is refused: the sizes of files bound their text from above, whatever the stages keep of it.
"""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from homegrown.config.corpus import AnySource, FilesSource
from homegrown.config.recipe import Recipe
from homegrown.corpus.readers.formats import PLAIN, form
from homegrown.corpus.records import MEGABYTE, Piece
from homegrown.corpus.remote import local_path
from homegrown.corpus.sources import find_files
from homegrown.data.loader import TokenSplit
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

_EXPANSION = 3
"""Bytes of UTF-8 per byte of a file, at most: those of a character that has one byte in a legacy encoding."""

_MARKS = 2
"""Tokens that mark the start and the end of a document."""

_PLAIN = frozenset(PLAIN)
_BOUNDED = _PLAIN | {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tex", ".srt", ".vtt"}
"""Formats whose text is not longer than `_EXPANSION` times the file."""

STAGES = ("shard", "tokenizer", "pretrain", "evaluate")
"""The stages of a complete run that can fail so."""

_SPLITS = 3
_ALPHABET = 263  # special tokens and bytes
_LITTLE = 4 * MEGABYTE


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of the text in bytes of UTF-8, and of its documents; None where only ingest tells."""

    text: int
    longest: int
    """Of one document."""
    documents: int | None
    what: str
    """The text, for a message."""


def check_fit(recipe: Recipe, store: Store, stages: Collection[str]) -> None:
    """Refuse a recipe some of whose `stages`, those that would run, surely fail; `store` has its base.

    Raises:
        UserError: a path is wrong, the context exceeds that of the base, or the text cannot give the documents of each
            split, the vocabulary, a training sequence, or a document of the length that the evaluation needs.
    """
    if recipe.base is not None and recipe.adaptation is not None:
        from homegrown.export.bases import base_config

        if problem := recipe.adaptation.misfit(base_config(recipe.base, store).context):
            raise UserError(f"{problem}.")
    if "ingest" in stages:
        for source in (*recipe.ingest.sources, *(recipe.replay.sources if recipe.replay else ())):
            if isinstance(source, FilesSource) and local_path(source.path) is not None:
                find_files(source)
    bounds = _bounds(recipe)
    if bounds is None:
        return
    if "shard" in stages and bounds.documents is not None and bounds.documents < _SPLITS:
        raise UserError(
            f"The corpus is too small: {bounds.what} are {bounds.documents} documents at most, but training, "
            "validation and test need one each; add text, or set the separator of a source."
        )
    if "tokenizer" in stages:
        _check_vocabulary(recipe, bounds)
    tokens = bounds.text + _MARKS * (bounds.text if bounds.documents is None else bounds.documents)
    if "pretrain" in stages and recipe.pack.layout == "contiguous" and tokens <= recipe.context:
        raise UserError(
            f"{_context(recipe)} is {recipe.context:,}, but {bounds.what} have {bounds.text:,} bytes at most, fewer "
            "than one training sequence; lower it, or add text."
        )
    if "evaluate" in stages and bounds.longest + _MARKS <= _needed(recipe):
        raise UserError(
            f"evaluation.prompt_tokens + evaluation.continuation_tokens are {_needed(recipe):,}, but no document of "
            f"{bounds.what} has more than {bounds.longest:,} bytes; lower them, or add text."
        )


def check_packed(recipe: Recipe, packed: Path, stages: Collection[str]) -> None:
    """Refuse a recipe whose training or evaluation would fail on its packed text.

    Raises:
        UserError: the training split is shorter than a training sequence, or no test document is long enough.
    """
    train, test = TokenSplit(packed, "train"), TokenSplit(packed, "test")
    if "pretrain" in stages and recipe.pack.layout == "contiguous" and train.tokens <= recipe.context:
        raise UserError(
            f"{_context(recipe)} is {recipe.context:,}, but there are {train.tokens:,} tokens to train on, fewer than "
            "one training sequence; lower it, or add text."
        )
    if "evaluate" in stages and test.longest_document <= _needed(recipe):
        raise UserError(
            f"evaluation.prompt_tokens + evaluation.continuation_tokens are {_needed(recipe):,}, but no test document "
            f"has more than {test.longest_document:,} tokens; lower them, or add text."
        )


def longest_document(recipe: Recipe) -> int | None:
    """Return the most bytes that a document can have; None where only ingest tells."""
    bounds = _bounds(recipe)
    return None if bounds is None else bounds.longest


def _check_vocabulary(recipe: Recipe, bounds: Bounds) -> None:
    settings = recipe.tokenizer
    if recipe.base is not None or settings.path is not None:
        return
    seen = min(bounds.text, int(settings.sample_mb * MEGABYTE) + bounds.longest)
    if settings.vocabulary_size > _ALPHABET + len(settings.special_tokens) + seen:  # a merge shortens the text
        raise UserError(
            f"tokenizer.vocabulary_size is {settings.vocabulary_size:,}, but {bounds.what} have {bounds.text:,} bytes "
            "at most, which give fewer tokens; lower it, or add text."
        )


def _needed(recipe: Recipe) -> int:
    return recipe.evaluation.prompt_tokens + recipe.evaluation.continuation_tokens


def _context(recipe: Recipe) -> str:
    return "model.context" if recipe.base is None else "adaptation.context"


def _bounds(recipe: Recipe) -> Bounds | None:
    """Return the bounds from the sources; None if one has others than plain local files."""
    if recipe.replay is not None:
        return None
    text, longest, documents, names = 0, 0, 0, []
    one_each = True
    for source in recipe.ingest.sources:
        files = _files(source)
        if files is None:
            return None
        sizes = _sizes(files)
        limit = None if source.limit_mb is None else int(source.limit_mb * MEGABYTE) + max(sizes)
        text += sum(sizes) if limit is None else min(sum(sizes), limit)
        longest = max(longest, *sizes)
        documents += len(sizes)
        plain = all(form(piece.locator)[0] in _PLAIN for piece in files)
        one_each = one_each and plain and isinstance(source, FilesSource) and source.separator is None
        names.append(source.name)
    what = f"the files of {'source' if len(names) == 1 else 'sources'} {', '.join(names)}"
    return Bounds(text, longest, documents if one_each else None, what)


def _files(source: AnySource) -> list[Piece] | None:
    """Return the files of a source; None if their text is not bounded, or not on this machine."""
    if not isinstance(source, FilesSource) or local_path(source.path) is None:
        return None
    try:
        found = find_files(source).files
    except UserError:  # ingest refuses it with its own message, also in a plan for another machine
        return None
    return None if any(form[0] not in _BOUNDED or form[1] for form in (form(one.locator) for one in found)) else found


def _sizes(files: list[Piece]) -> list[int]:
    """Return the most bytes of text in each file; little text is read, because legacy encodings take less bytes."""
    sizes = [piece.size for piece in files]
    if sum(sizes) > _LITTLE:
        return [_EXPANSION * size for size in sizes]
    found = []
    for piece in files:
        try:
            text = Path(piece.address).read_text(encoding="utf-8")
            found.append(len(unicodedata.normalize("NFC", text).encode()))
        except (OSError, UnicodeDecodeError):
            found.append(_EXPANSION * piece.size)
    return found
