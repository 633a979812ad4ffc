"""Signals: one row of measured values per document, separate from the documents."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from homegrown.config.recipe import FilterSettings
from homegrown.corpus.quality import c4
from homegrown.corpus.quality.rules import SETS, measures
from homegrown.corpus.quality.texts import Values, take_apart
from homegrown.corpus.quality.word_list import look_up
from homegrown.corpus.segmenter import unsegmented

_SLICE = 2_000_000  # bytes of text to split at once: their words and lines stay in the processor's cache


def _schema() -> pa.Schema:
    fields = [pa.field("id", pa.string())]
    for name in SETS:
        measured = [pa.field(measure, pa.float64()) for measure in measures(name)]
        fields += [pa.field(name, pa.struct(measured))] if name else measured
    fields += [
        pa.field("unsegmented", pa.bool_()),  # words of a script without spaces were not found: no segmenter
        pa.field("language", pa.string()),  # the most likely; null if not identified
        pa.field("language_probability", pa.float64()),
        pa.field("languages_probability", pa.float64()),  # of the most likely wanted one
    ]
    return pa.schema(fields)


SCHEMA = _schema()
"""`id`, the basic measures, a struct of measures per set (c4, word_list: null if disabled), the language."""


def slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch of documents in slices small enough to split at once."""
    sizes = pc.binary_length(batch["text"]).to_numpy()
    first = 0
    while first < len(batch):
        many = max(1, int(np.searchsorted(np.cumsum(sizes[first:]), _SLICE, side="right")))
        yield batch.slice(first, many)
        first += many


def measure(ids: pa.StringArray, texts: pa.StringArray, settings: FilterSettings) -> tuple[pa.Table, pa.StringArray]:
    """Measure texts without nulls; return their rows of SCHEMA without languages, and the texts to keep.

    The texts to keep are those that C4's rules leave, if enabled; FineWeb's measures are of these.
    """
    raw = kept = take_apart(texts)
    inputs: dict[str, Any] = {"": raw, "gopher_quality": raw, "gopher_repetition": raw}
    if settings.c4:
        cleaned = c4.clean(texts, settings.c4)
        inputs["c4"] = cleaned
        kept, texts = take_apart(cleaned.texts), cleaned.texts
    inputs["fineweb"] = kept
    if settings.word_list:
        inputs["word_list"] = look_up(texts, settings.word_list.path)
    columns: dict[str, pa.Array] = {"id": ids}
    for name, measured in inputs.items():
        found: dict[str, Values] = {each: function(measured) for each, function in measures(name).items()}
        if name:
            columns[name] = pa.StructArray.from_arrays([pa.array(value) for value in found.values()], list(found))
        else:
            columns |= {each: pa.array(value) for each, value in found.items()}
    columns["unsegmented"] = pa.array(unsegmented(texts))
    row = [columns[field.name] if field.name in columns else pa.nulls(len(texts), field.type) for field in SCHEMA]
    return pa.table(row, schema=SCHEMA), texts
