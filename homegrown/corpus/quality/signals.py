"""Signals: one row of measured values per document, separate from the documents."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from homegrown.config.filter import FilterSettings
from homegrown.corpus.compiled import buffers
from homegrown.corpus.languages import Languages
from homegrown.corpus.quality import c4, junk
from homegrown.corpus.quality.by_language import stop_words
from homegrown.corpus.quality.example import Classifier
from homegrown.corpus.quality.rules import SETS, measures, tables_of
from homegrown.corpus.quality.texts import ENGLISH, Values, lined, split_lines, stop_word_lists, take_apart
from homegrown.corpus.quality.urls import look_up as look_up_urls
from homegrown.corpus.quality.word_list import look_up
from homegrown.corpus.segmenter import unsegmented, word_ends

_SLICE = 2_000_000  # bytes of text to split at once: their words and lines stay in the processor's cache


def _schema() -> pa.Schema:
    fields = [pa.field("id", pa.string())]
    for name in SETS:
        measured = [pa.field(measure, pa.float64()) for measure in measures(name)]
        fields += [pa.field(name, pa.struct(measured))] if name else measured
    fields += [
        pa.field("unsegmented", pa.bool_()),  # words of a script without spaces were not found: no segmenter
        pa.field("language", pa.string()),  # the most likely; null if not identified
        pa.field("script", pa.string()),  # its script, as in ISO 15924
        pa.field("language_score", pa.float64()),  # its probability
        pa.field("languages_probability", pa.float64()),  # of the most likely wanted one
    ]
    return pa.schema(fields)


SCHEMA = _schema()
"""`id`, the basic measures, a struct of measures per set (of some null if disabled), the language."""


def slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch of documents in slices small enough to split at once."""
    sizes = pc.binary_length(batch["text"]).to_numpy()
    first = 0
    while first < len(batch):
        many = max(1, int(np.searchsorted(np.cumsum(sizes[first:]), _SLICE, side="right")))
        yield batch.slice(first, many)
        first += many


def measure(
    ids: pa.StringArray,
    texts: pa.StringArray,
    settings: FilterSettings,
    languages: Languages | None = None,
    classifier: Classifier | None = None,
    urls: pa.StringArray | None = None,
) -> tuple[pa.Table, pa.StringArray]:
    """Measure texts without nulls; return their rows of SCHEMA, and the texts to keep.

    The texts to keep are those that C4's rules leave, if they apply; FineWeb's measures are of these. `languages` are
    filled in, if known; with `language: auto` they decide on stop words and on C4's rules. `classifier` is that of
    `settings.example`; `urls` are those of the documents.
    """
    n = len(texts)
    auto = languages is not None and settings.language == "auto"
    tables = tables_of(languages.codes, languages.scripts) if languages and auto else [""] * n
    names = sorted({"", *tables})
    lists = [names.index(table) for table in tables]
    words = stop_word_lists(lists, [stop_words(table) if table else ENGLISH for table in names])
    ends = word_ends(*buffers(texts))
    raw = take_apart(texts, words, ends)
    inputs: dict[str, Any] = {"": raw, "gopher_quality": raw, "gopher_repetition": raw}
    if settings.junk:
        inputs["junk"] = junk.look_at(texts, raw)
    skipped = {"c4": np.array([bool(table) for table in tables], bool)}
    if settings.c4:
        cleaned = c4.clean(texts, settings.c4, ends)
        inputs["c4"] = cleaned
        texts = pc.if_else(pa.array(skipped["c4"]), texts, cleaned.texts) if skipped["c4"].any() else cleaned.texts
    inputs["fineweb"] = split_lines(texts) if settings.c4 else lined(raw)
    if settings.word_list:
        inputs["word_list"] = look_up(texts, settings.word_list.path)
    if classifier:
        inputs["example"] = classifier.percentiles(raw)
    for name in ("blocked_urls", "allowed_urls"):
        if urls is not None and (lists := getattr(settings, name)):
            inputs[name] = look_up_urls(urls, lists.paths, f"filter.{name}.paths")
            skipped[name] = np.isnan(inputs[name])
    columns: dict[str, pa.Array] = {"id": ids}
    for name, measured in inputs.items():
        found: dict[str, Values] = {each: function(measured) for each, function in measures(name).items()}
        arrays = {each: pa.array(value, mask=skipped.get(name)) for each, value in found.items()}
        columns |= {name: pa.StructArray.from_arrays(list(arrays.values()), list(arrays))} if name else arrays
    columns["unsegmented"] = pa.array(unsegmented(texts))
    if languages:
        columns |= {
            "language": pa.array(languages.codes, pa.string()),
            "script": pa.array(languages.scripts, pa.string()),
            "language_score": pa.array(languages.probabilities),
            "languages_probability": pa.array(languages.asked),
        }
    row = [columns[field.name] if field.name in columns else pa.nulls(n, field.type) for field in SCHEMA]
    return pa.table(row, schema=SCHEMA), texts
