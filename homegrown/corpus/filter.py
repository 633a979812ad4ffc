"""The filter stage: documents that pass every rule, dropped ones with rule and value, and the signals of all."""

import logging
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.filter import FilterSettings
from homegrown.corpus.documents import SCHEMA, row_counts
from homegrown.corpus.languages import Languages, check_languages, identify
from homegrown.corpus.quality import signals, urls, word_list
from homegrown.corpus.quality.example import MOST_OTHERS, Classifier, chosen, fit, good_texts
from homegrown.corpus.quality.rules import LANGUAGES, Rule, failures, rules, thresholds, values
from homegrown.corpus.redaction import redact
from homegrown.corpus.segmenter import MISSING
from homegrown.util.elsewhere import opened, parts_of
from homegrown.util.errors import UserError
from homegrown.util.files import replacing, write_parquet
from homegrown.util.parallel import map_ordered
from homegrown.util.progress import Metric, Outcome, Progress, silent

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),
        ("language", pa.string()),  # null if not identified
        ("rule", pa.string()),  # the first failed rule, by the path of its setting
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("text_start", pa.string()),  # 200 characters
        ("url", pa.string()),
    ]
)
RULES = pa.schema(
    [
        ("rule", pa.string()),
        ("threshold", pa.float64()),  # of English documents; null for languages: it differs per document
        ("dropped", pa.int64()),  # documents that fail this rule first
        ("failed", pa.int64()),  # documents that fail it; languages are identified only for those that pass all others
        ("alone", pa.int64()),  # documents that fail it and no other rule
    ]
)
OVERLAP = pa.schema(
    [
        ("rule", pa.string()),
        ("other", pa.string()),  # a later rule
        ("both", pa.int64()),  # documents that fail both
    ]
)
BY_SOURCE = pa.schema(
    [
        ("source", pa.string()),
        ("documents", pa.int64()),
        ("kept", pa.int64()),
    ]
)
BY_LANGUAGE = pa.schema(
    [
        ("language", pa.string()),
        ("documents", pa.int64()),  # with this language, of those that were identified
        ("kept", pa.int64()),
        ("rule", pa.string()),  # that dropped the most of them first; null if none was dropped
        ("dropped", pa.int64()),  # by this rule
    ]
)
SIGNALS = signals.SCHEMA.append(pa.field("redacted", pa.int32()))  # number of replacements
_TEXT = SCHEMA.get_field_index("text")
_log = logging.getLogger(__name__)
_BATCH = 4096  # rows whose texts are in memory at once
_LEAST_AUC = 0.6  # chance has 0.5
_ALIKE = (
    "filter.example: the good documents are hardly different from the corpus (AUC %.2f, chance is 0.5), so documents "
    "are dropped almost at random; give other good documents, or set example to null."
)


@dataclass(frozen=True)
class _Job:
    documents: Path
    out: Path
    settings: FilterSettings
    classifier: Classifier | None

    def part(self, table: str) -> Path:
        return self.out / table / self.documents.name


@dataclass(frozen=True)
class _Sample:
    documents: Path
    rows: tuple[int, ...]


@dataclass(frozen=True)
class _Counts:
    """The counts of a shard: by source, by language, by language and rule, by rule, by pair of rules."""

    sources: dict[str, int]
    kept_sources: dict[str, int]
    identified: dict[str, int]
    lost: list[tuple[str, str, int]]
    redacted: int
    unsegmented: int
    without_url: int
    dropped: list[int]
    failed: list[int]
    alone: list[int]
    both: list[int]


@dataclass
class _Judged:
    kept: list[pa.Table] = field(default_factory=lambda: [SCHEMA.empty_table()])
    dropped: list[pa.Table] = field(default_factory=lambda: [DROPPED.empty_table()])
    signals: list[pa.Table] = field(default_factory=lambda: [SIGNALS.empty_table()])


def filter_documents(
    out: Path, deduplicated: Path, settings: FilterSettings, *, executor: Executor, progress: Progress = silent
) -> Outcome:
    """Apply the rules to `deduplicated/documents`; write seven tables to `out`, the first three shard by shard.

    `documents` are those that pass, after C4's removal of lines and redaction; `dropped` are the others, with the first
    failed rule; `signals` has the measured values of each, in the order of the input; `rules`, `overlap`, `by_source`
    and `by_language` are summaries. A value equal to its threshold passes. With `language: auto`, thresholds and stop
    words are those of the document's language (`homegrown.corpus.quality.by_language`). For `languages` the value is
    the probability of the most likely wanted language, the threshold that of the most likely language. Documents
    without a URL pass lists of URLs, and are counted. The classifier of `example` is written as `example/weights.npy`
    and `example/scores.npy`. Raises UserError for an unknown language, an unreadable list, documents without any URL
    where lists have to judge, and too few good documents.
    """
    check_languages(settings.languages)
    if settings.word_list:
        word_list.check(settings.word_list.path)
    parts = parts_of(deduplicated / "documents")
    lists = _url_lists(settings, parts)
    classifier = _learned(out, parts, settings.example.good, executor) if settings.example else None
    jobs = [_Job(part, out, settings, classifier) for part in parts]
    names = _names(settings)
    dropped, failed, alone = (np.zeros(len(names), int) for _ in range(3))
    both = np.zeros((len(rules(settings)),) * 2, int)
    sources: Counter[str] = Counter()
    kept_sources: Counter[str] = Counter()
    redacted = unsegmented = without_url = 0
    identified: Counter[str] = Counter()
    lost: Counter[tuple[str, str]] = Counter()  # by language and rule
    for done, counts in enumerate(map_ordered(executor, _filter_shard, jobs), 1):
        sources.update(counts.sources)
        kept_sources.update(counts.kept_sources)
        identified.update(counts.identified)
        for language, rule, count in counts.lost:
            lost[language, rule] += count
        redacted += counts.redacted
        unsegmented += counts.unsegmented
        without_url += counts.without_url
        dropped += counts.dropped
        failed += counts.failed
        alone += counts.alone
        both += np.array(counts.both, int).reshape(both.shape)
        progress(done, len(jobs), dropped=int(dropped.sum()))
    kept = kept_sources.total()
    thresholds = [rule.threshold for rule in rules(settings)] + [None] * bool(settings.languages)
    columns = zip((names, thresholds, dropped, failed, alone), RULES.types, strict=True)
    summary = pa.table([pa.array(column, kind) for column, kind in columns], schema=RULES)
    write_parquet(out / "rules" / "part-00000.parquet", summary)
    write_parquet(out / "overlap" / "part-00000.parquet", _overlap(names, both))
    by_source = [
        {"source": name, "documents": count, "kept": kept_sources[name]} for name, count in sorted(sources.items())
    ]
    write_parquet(out / "by_source" / "part-00000.parquet", pa.Table.from_pylist(by_source, BY_SOURCE))
    write_parquet(out / "by_language" / "part-00000.parquet", _by_language(identified, lost))
    metrics: dict[str, Metric] = {
        f"dropped_{name}": int(count) for name, count in zip(names, dropped, strict=True) if count
    }
    if classifier:
        metrics["example_auc"] = classifier.auc
        if classifier.auc < _LEAST_AUC:
            _log.warning(_ALIKE, classifier.auc)
    if settings.redact:
        metrics["redacted"] = redacted
    if lists:
        metrics["without_url"] = without_url
    if unsegmented:
        metrics["unsegmented"] = unsegmented
        _log.warning("%d %s", unsegmented, MISSING)
    return Outcome(kept + int(dropped.sum()), kept, metrics=metrics)


def _url_rules(settings: FilterSettings) -> list[Rule]:
    return [rule for rule in rules(settings) if rule.signal[0] in ("blocked_urls", "allowed_urls")]


def _url_lists(settings: FilterSettings, parts: list[Path]) -> list[Rule]:
    """Return the rules of lists of URLs; raise UserError for a bad list, and if no document has a URL."""
    chosen = _url_rules(settings)
    for name in (rule.signal[0] for rule in chosen):
        urls.check(getattr(settings, name).paths, f"filter.{name}.paths")
        if not any(_has_value(part, "url") for part in parts):
            raise UserError(f"filter.{name}: no document has a URL; set url_column of a source, or {name} to null.")
    return chosen


def _has_value(part: Path, column: str) -> bool:
    """Return whether a column has a value, from the footer of a Parquet file."""
    metadata = pq.read_metadata(opened(part))
    place = metadata.schema.names.index(column)
    statistics = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
    return any(one is None or one.num_values for one in statistics)


def _names(settings: FilterSettings) -> list[str]:
    """Return the names of all rules; that of the languages is the last."""
    return [rule.name for rule in rules(settings)] + [LANGUAGES] * bool(settings.languages)


def _learned(out: Path, parts: list[Path], folder: str, executor: Executor) -> Classifier:
    """Return a classifier of the good documents against a sample of the corpus, and write its arrays."""
    good = good_texts(folder)
    rows = np.cumsum([0, *row_counts(parts)])
    places = np.unique(np.linspace(0, rows[-1] - 1, min(int(rows[-1]), MOST_OTHERS)).round().astype(np.int64))
    samples = (
        _Sample(part, tuple((places[(places >= first) & (places < end)] - first).tolist()))
        for part, first, end in zip(parts, rows, rows[1:], strict=False)
    )
    texts = [text for found in map_ordered(executor, _sampled, samples) for text in found]
    classifier = fit(good, chosen(texts, MOST_OTHERS))
    (out / "example").mkdir(parents=True, exist_ok=True)
    for name, array in (("weights", classifier.weights), ("scores", classifier.scores)):
        with replacing(out / "example" / f"{name}.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
    return classifier


def _overlap(names: list[str], both: NDArray[np.int64]) -> pa.Table:
    """Return OVERLAP, the most frequent pairs first."""
    pairs = [(int(both[one, other]), one, other) for one, other in zip(*np.triu_indices(len(both), 1), strict=True)]
    rows = [
        {"rule": names[one], "other": names[other], "both": count}
        for count, one, other in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))
        if count
    ]
    return pa.Table.from_pylist(rows, OVERLAP)


def _sampled(job: _Sample) -> list[str]:
    """Return the texts of some rows of a shard."""
    wanted, texts = np.array(job.rows, np.int64), list[str]()
    for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH, columns=["text"]):
        own = wanted[wanted < len(batch)]
        texts += batch["text"].take(pa.array(own)).to_pylist()
        wanted = wanted[len(own) :] - len(batch)
    return texts


def _filter_shard(job: _Job) -> _Counts:
    """Filter a shard unless its output exists; return its counts."""
    if not job.part("documents").exists():  # written last
        judged = _Judged()
        for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH):
            for documents in signals.slices(batch):
                _judge(documents, job.settings, judged, job.classifier)
        write_parquet(job.part("signals"), pa.concat_tables(judged.signals))
        write_parquet(job.part("dropped"), pa.concat_tables(judged.dropped))
        write_parquet(job.part("documents"), pa.concat_tables(judged.kept))
    passed = Counter(pq.read_table(job.part("documents"), columns=["source"])["source"].to_pylist())
    drops = pq.read_table(job.part("dropped"), columns=["rule", "language", "source"])
    first, languages = drops["rule"].to_pylist(), drops["language"].to_pylist()
    lost = Counter((language, rule) for language, rule in zip(languages, first, strict=True) if language)
    measured, names, lists = pq.read_table(job.part("signals")), _names(job.settings), _url_rules(job.settings)
    fails = failures(measured, job.settings).astype(np.int64)
    foreign = [first.count(LANGUAGES)] * (len(names) - len(fails))
    return _Counts(
        sources=dict(passed + Counter(drops["source"].to_pylist())),
        kept_sources=dict(passed),
        identified=dict(Counter(language for language in measured["language"].to_pylist() if language)),
        lost=[(*pair, count) for pair, count in lost.items()],
        redacted=pc.sum(measured["redacted"]).as_py() or 0,
        unsegmented=pc.sum(measured["unsegmented"]).as_py() or 0,
        without_url=int(np.isnan(values(measured, lists[0])).sum()) if lists else 0,
        dropped=[first.count(name) for name in names],
        failed=[*fails.sum(axis=1).tolist(), *foreign],
        alone=[*(fails * (fails.sum(axis=0) == 1)).sum(axis=1).tolist(), *foreign],
        both=(fails @ fails.T).ravel().tolist(),
    )


def _by_language(identified: Counter[str], lost: Counter[tuple[str, str]]) -> pa.Table:
    """Return BY_LANGUAGE, the most frequent languages first."""
    rows = []
    for language, documents in sorted(identified.items(), key=lambda item: (-item[1], item[0])):
        own = sorted(((rule, count) for (code, rule), count in lost.items() if code == language), key=lambda x: -x[1])
        kept = documents - sum(count for _, count in own)
        rule, dropped = own[0] if own else (None, 0)
        rows.append({"language": language, "documents": documents, "kept": kept, "rule": rule, "dropped": dropped})
    return pa.Table.from_pylist(rows, BY_LANGUAGE)


def _judge(documents: pa.RecordBatch, settings: FilterSettings, judged: _Judged, classifier: Classifier | None) -> None:
    """Measure documents and add each to the kept or the dropped ones."""
    found = None
    if settings.language == "auto" or settings.min_language_score is not None:
        found = identify(documents["text"], settings.languages)
    measured, texts = signals.measure(documents["id"], documents["text"], settings, found, classifier, documents["url"])
    active, bounds = rules(settings), thresholds(measured, settings)
    first = np.full(len(documents), -1)  # by document, the first failed rule
    value, threshold = np.zeros(len(documents)), np.zeros(len(documents))
    for number, (rule, fails) in enumerate(zip(active, failures(measured, settings, bounds), strict=True)):
        rows = fails & (first < 0)
        first[rows], value[rows], threshold[rows] = number, values(measured, rule)[rows], bounds[number][rows]
    if settings.languages:
        rows = np.flatnonzero(first < 0)
        if found is None:  # last, because it costs more than all other rules
            measured = _with_languages(measured, rows, identify(texts.take(pa.array(rows)), settings.languages))
        asked, best = (measured[name].to_numpy()[rows] for name in ("languages_probability", "language_score"))
        foreign = asked < best
        rows = rows[foreign]
        first[rows], value[rows], threshold[rows] = len(active), asked[foreign], best[foreign]

    kept, dropped = pa.array(first < 0), np.flatnonzero(first >= 0)
    texts = texts.filter(kept)
    redacted = np.zeros(len(documents), np.int32)
    if settings.redact:
        texts, redacted[first < 0] = redact(texts, settings.redact)
    judged.kept.append(pa.table(documents.filter(kept)).set_column(_TEXT, SCHEMA.field(_TEXT), texts))
    judged.signals.append(measured.append_column(SIGNALS.field("redacted"), pa.array(redacted)))
    names = [*(rule.name for rule in active), LANGUAGES]
    originals = documents.take(pa.array(dropped))
    columns = [
        *(originals[name] for name in ("id", "source", "path", "position")),
        measured["language"].combine_chunks().take(pa.array(dropped)),
        pa.array([names[number] for number in first[dropped]], pa.string()),
        pa.array(value[dropped]),
        pa.array(threshold[dropped]),
        pc.utf8_slice_codeunits(originals["text"], 0, 200),
        originals["url"],
    ]
    judged.dropped.append(pa.table(columns, schema=DROPPED))


def _with_languages(measured: pa.Table, rows: NDArray[np.int64], found: Languages) -> pa.Table:
    """Fill in the languages of some rows of signals."""
    mask = np.zeros(len(measured), bool)
    mask[rows] = True
    columns = {
        "language": pa.array(found.codes, pa.string()),
        "script": pa.array(found.scripts, pa.string()),
        "language_score": pa.array(found.probabilities),
        "languages_probability": pa.array(found.asked),
    }
    for name, values_ in columns.items():
        place = measured.schema.get_field_index(name)
        empty = measured[name].combine_chunks()
        measured = measured.set_column(place, name, pc.replace_with_mask(empty, pa.array(mask), values_))
    return measured
