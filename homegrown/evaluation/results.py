"""The tables of an evaluation: a row for each model, source, completion or document."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa

from homegrown.util.files import parquet_parts, read_parquet, replacing, write_parquet

Kind = Literal["weights", "base", "previous", "baseline", "text"]
FACTS = "facts.json"
SAMPLE = "sample.txt"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The metrics of a variant of the weights, their base, a baseline, or the held-out text; a row of `results`.

    BLEU, ROUGE and Self-BLEU are from 0 to 100, shares from 0 to 1; megabytes are 10^6 bytes; memorised are tokens.
    `…_low` and `…_high` are the ends of the 95% interval, None for a single document. `difference` is in bits per byte
    to the original weights, with the paired interval. None for a metric that does not apply.
    """

    variant: str
    kind: Kind = "weights"
    bits_per_byte: float | None = None
    bits_per_byte_low: float | None = None
    bits_per_byte_high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    perplexity: float | None = None
    bleu: float | None = None
    bleu_low: float | None = None
    bleu_high: float | None = None
    sentence_bleu: float | None = None
    sentence_bleu_low: float | None = None
    sentence_bleu_high: float | None = None
    rouge_1: float | None = None
    rouge_1_low: float | None = None
    rouge_1_high: float | None = None
    rouge_2: float | None = None
    rouge_2_low: float | None = None
    rouge_2_high: float | None = None
    rouge_l: float | None = None
    rouge_l_low: float | None = None
    rouge_l_high: float | None = None
    rouge_lsum: float | None = None
    rouge_lsum_low: float | None = None
    rouge_lsum_high: float | None = None
    repeated_4grams: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    self_bleu: float | None = None
    memorised_median: float | None = None
    memorised_mean: float | None = None
    memorised_longest: int | None = None
    tokens_per_second: float | None = None
    disk_megabytes: float | None = None
    memory_megabytes: float | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class OfSource:
    """The metrics of one model on the documents of one source; a row of `sources`."""

    variant: str
    source: str
    documents: int
    tokens: int
    bytes: int
    bits_per_byte: float
    bits_per_byte_low: float | None = None
    bits_per_byte_high: float | None = None
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class OfGeneral:
    """The metrics of one model on the general text (`general.py`); a row of `general`.

    `difference` is in bits per byte to the base, with the paired interval.
    """

    variant: str
    passages: int
    tokens: int
    bytes: int
    bits_per_byte: float
    bits_per_byte_low: float | None = None
    bits_per_byte_high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One completion of one document; a row of `continuations`.

    `memorised` is its longest run of tokens that is in the training data, and `reference_memorised` that of the
    document itself.
    """

    variant: str
    document: int
    id: str
    source: str
    prompt: str
    reference: str
    continuation: str
    bleu: float
    rouge_1: float
    rouge_2: float
    rouge_l: float
    rouge_lsum: float
    memorised: int
    reference_memorised: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The longest run of tokens in a variant's completions that is in a training document; a row of `memorised`."""

    variant: str
    tokens: int
    text: str
    document: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How it was measured; `documents_asked` can be more than the documents that are long enough."""

    test_tokens: int
    test_documents: int
    context: int
    stride: int
    whole_split: bool
    documents: int
    documents_asked: int
    prompt_tokens: int
    continuation_tokens: int
    train_tokens: int
    counted_tokens: int
    general_left_out: int = 0
    """Passages of the general text that are in the training data."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report."""

    results: Sequence[Result]
    sources: Sequence[OfSource]
    continuations: Sequence[Continuation]
    memorised: Sequence[Memory]
    facts: Facts
    sample: str
    general: Sequence[OfGeneral] = ()
    """The base first, then the original weights; empty for a model without a base."""

    @property
    def original(self) -> Result:
        """The row of the original weights, the first."""
        return self.results[0]

    def write(self, out: Path) -> None:
        """Write the tables, the facts and the sample; `general` only with rows."""
        for name in _TABLES:
            rows = [asdict(row) for row in getattr(self, name)]
            if name == "general" and not rows:
                continue
            write_parquet(out / name / "part-00000.parquet", pa.Table.from_pylist(rows, _schema(_TABLES[name])))
        for file, text in ((FACTS, json.dumps(asdict(self.facts), indent=2)), (SAMPLE, self.sample)):
            with replacing(out / file) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote."""
        rows: dict[str, list[Any]] = {
            name: [kind(**row) for row in read_parquet(folder / name).to_pylist()]
            for name, kind in _TABLES.items()
            if name != "general" or parquet_parts(folder / name)
        }
        facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
        return cls(**rows, facts=facts, sample=(folder / SAMPLE).read_text(encoding="utf-8").removesuffix("\n"))


_TABLES: dict[str, type[Any]] = {
    "results": Result,
    "sources": OfSource,
    "continuations": Continuation,
    "memorised": Memory,
    "general": OfGeneral,
}
_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64()}


def _schema(kind: type[Any]) -> pa.Schema:
    """Return the Arrow schema of a dataclass of strings, numbers and optional ones."""
    return pa.schema([(field.name, _type(field.type)) for field in fields(kind)])


def _type(annotation: Any) -> pa.DataType:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if candidate in _TYPES:
            return _TYPES[candidate]
    return pa.string()  # a Literal of names
