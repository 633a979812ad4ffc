"""The report of an evaluation, as sections for Markdown and for HTML."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from homegrown.evaluation.bootstrap import MIN_UNITS, RESAMPLES, Interval
from homegrown.evaluation.chart import draw_memorization, draw_models
from homegrown.evaluation.compressors import GZIP_LEVEL, PRIMER_BYTES, XZ_PRESET
from homegrown.evaluation.costs import in_words
from homegrown.evaluation.diversity import MOST_TEXTS
from homegrown.evaluation.overlap import BLEU_METHOD, ROUGE_METHOD
from homegrown.evaluation.results import Facts, OfGeneral, OfSource, Report, Result
from homegrown.reporting.blocks import (
    Cell,
    Group,
    Lines,
    Paragraph,
    Passage,
    Picture,
    Section,
    SideBySide,
    Table,
    as_markdown,
)
from homegrown.reporting.html import as_html
from homegrown.reporting.numbers import file_size, quantity

TITLE = "Evaluation"
_SHOWN_DOCUMENTS = 6
_SHOWN_SOURCES = 30


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    return f"# {TITLE}\n\n{as_markdown(sections(report))}"


def html(report: Report) -> str:
    """Return the report as one HTML page."""
    return as_html(TITLE, sections(report))


def gains(report: Report) -> list[str]:
    """Return sentences about what a model learned beyond its base, and what it forgot; none without a base."""
    base = next((row for row in report.results if row.kind == "base"), None)
    found = []
    if base and base.difference is not None:
        interval = _interval(base, report.facts.test_documents)
        above = interval.negated if interval else None
        found.append(in_words("The trained weights", "the base", -base.difference, above))
    for row in report.general:
        if row.difference is not None:
            interval = _interval(row, row.passages)
            found.append(in_words("On general text, the trained weights", "the base", row.difference, interval))
    return found


def sections(report: Report, news: Sequence[str] = (), groups: Sequence[Group] = ()) -> list[Section]:
    """Return all sections of an evaluation.

    `news` are sentences for below the table of models, and `groups` more columns of it, a cell for each result.
    """
    return [
        Section(
            "Models",
            [
                models_table(report, groups),
                *([Lines(sentences)] if (sentences := [*gains(report), *news]) else []),
                models_picture(report.results),
            ],
        ),
        *([_by_source(report)] if len({row.source for row in report.sources}) > 1 else []),
        *([_general(report)] if report.general else []),
        _memorised(report),
        Section("Sample without a prompt", [Passage(report.sample)]),
        Section(
            "Completions of held-out documents",
            [_document(report, number) for number in range(min(report.facts.documents, _SHOWN_DOCUMENTS))],
        ),
        Section("Method", [Lines(_method(report))]),
    ]


def models_table(report: Report, more: Sequence[Group] = ()) -> Table:
    """Return every metric of every model, then the columns `more`."""
    units = report.facts.test_documents
    groups = [
        Group(
            title, [name for name, _ in columns], [[show(row, units) for _, show in columns] for row in report.results]
        )
        for title, columns in _GROUPS
    ]
    table = Table.grouped("model", [row.variant for row in report.results], [*groups, *more])
    return replace(table, notes=[_units(report)])


def _units(report: Report) -> str:
    """Return how many documents the intervals are over, and whether they suffice."""
    tested, completed = report.facts.test_documents, report.facts.documents
    over = f"Intervals: {quantity(tested, 'test documents')}, {quantity(completed, 'completions')}."
    if min(tested, completed) == 1:
        over += " A single one has no interval."
    if tested < MIN_UNITS:
        over += f" Fewer than {MIN_UNITS} test documents: no difference is called significant."
    return over


def models_picture(results: Sequence[Result]) -> Picture:
    """Return the chart of the table."""
    return Picture(draw_models(results), "Bits per byte, speed and size of each model, as in the table")


_Show = Callable[[Result, int], Cell]
"""Show a metric of a model that was measured on so many documents."""


def _plain(name: str, form: str) -> _Show:
    def show(row: Result, units: int) -> Cell:
        value = getattr(row, name)
        return Cell("" if value is None else form.format(value))

    return show


def _measured(name: str, form: str) -> _Show:
    """Return a function that shows a metric with its interval."""

    def show(row: Result, units: int) -> Cell:
        value, low, high = (getattr(row, name + ending) for ending in ("", "_low", "_high"))
        text = "" if value is None else form.format(value)
        return Cell(text, "" if low is None else f"{form.format(low)} to {form.format(high)}")

    return show


def _difference(row: Result | OfGeneral, units: int) -> Cell:
    if row.difference is None:
        return Cell("")
    interval = _interval(row, units)
    if interval is None:
        return Cell(f"{row.difference:+.4f}")
    star = " *" if interval.is_significant else ""
    return Cell(f"{row.difference:+.4f}{star}", f"{interval.low:+.4f} to {interval.high:+.4f}")


_GROUPS: tuple[tuple[str, tuple[tuple[str, _Show], ...]], ...] = (
    (
        "prediction",
        (
            ("bits per byte", _measured("bits_per_byte", "{:.4f}")),
            ("vs. original", _difference),
            ("perplexity", _plain("perplexity", "{:.2f}")),
        ),
    ),
    (
        "overlap with the reference",
        (
            ("BLEU", _measured("bleu", "{:.2f}")),
            ("sentence BLEU", _measured("sentence_bleu", "{:.2f}")),
            ("ROUGE-1", _measured("rouge_1", "{:.1f}")),
            ("ROUGE-2", _measured("rouge_2", "{:.1f}")),
            ("ROUGE-L", _measured("rouge_l", "{:.1f}")),
            ("ROUGE-Lsum", _measured("rouge_lsum", "{:.1f}")),
        ),
    ),
    (
        "diversity",
        (
            ("repeated 4-grams", _plain("repeated_4grams", "{:.1%}")),
            ("distinct 1-grams", _plain("distinct_1", "{:.1%}")),
            ("distinct 2-grams", _plain("distinct_2", "{:.1%}")),
            ("Self-BLEU", _plain("self_bleu", "{:.1f}")),
        ),
    ),
    (
        "memorized tokens",
        (
            ("median", _plain("memorised_median", "{:g}")),
            ("mean", _plain("memorised_mean", "{:.1f}")),
            ("longest", _plain("memorised_longest", "{}")),
        ),
    ),
    (
        "cost",
        (
            ("tokens/s", _plain("tokens_per_second", "{:,.0f}")),
            ("disk MB", _plain("disk_megabytes", "{:.1f}")),
            ("memory MB", _plain("memory_megabytes", "{:.1f}")),
            ("device", _plain("device", "{}")),
        ),
    ),
)


def _by_source(report: Report) -> Section:
    """Return bits per byte by source, one column per model."""
    variants = list(dict.fromkeys(row.variant for row in report.sources))
    sources = list(dict.fromkeys(row.source for row in report.sources))
    found = {(row.variant, row.source): row for row in report.sources}
    shown = sources[:_SHOWN_SOURCES]
    text, cells = [], []
    for source in shown:
        rows = [found[variant, source] for variant in variants]
        text.append([f"{rows[0].documents:,}", file_size(rows[0].bytes)])
        cells.append([Cell(f"{row.bits_per_byte:.4f}", _ends(row)) for row in rows])
    groups = [Group("held out", ["documents", "text"], text), Group("bits per byte", variants, cells)]
    more = (
        [Paragraph(f"The table `sources` has {len(sources) - len(shown)} more sources.")]
        if sources[len(shown) :]
        else []
    )
    return Section("By source", [Table.grouped("source", shown, groups), *more])


def _general(report: Report) -> Section:
    """Return the table of the general text."""
    rows = [
        [
            Cell(row.variant),
            Cell(f"{row.bits_per_byte:.4f}", _ends(row)),
            _difference(row, row.passages),
            Cell(f"{row.passages}"),
            Cell(file_size(row.bytes)),
        ]
        for row in report.general
    ]
    header = ["model", "bits per byte", "vs. base", "passages", "text"]
    return Section("General text", [Table(header, rows)])


def _interval(row: Result | OfGeneral, units: int) -> Interval | None:
    """Return the interval of a difference over so many documents."""
    low, high = row.difference_low, row.difference_high
    return None if low is None or high is None else Interval(low, high, units)


def _ends(row: OfSource | OfGeneral) -> str:
    if row.bits_per_byte_low is None:
        return "1 document: no interval"
    return f"{row.bits_per_byte_low:.4f} to {row.bits_per_byte_high:.4f}"


def _memorised(report: Report) -> Section:
    """Return how much of the completions is in the training data, beside the held-out text itself."""
    lengths: dict[str, list[int]] = {}
    for row in report.continuations:
        lengths.setdefault(row.variant, []).append(row.memorised)
    first = next(iter(lengths))
    base = report.memorised[-1].variant
    lengths[base] = [row.reference_memorised for row in report.continuations if row.variant == first]
    rows = [[row.variant, f"{row.tokens}", row.source, row.document] for row in report.memorised]
    table = Table(["longest memorized run of", "tokens", "source", "document"], rows, align="lrll")
    longest = report.memorised[0]
    return Section(
        "Memorization",
        [
            Picture(draw_memorization(lengths), "Longest memorized runs of completions and of held-out text"),
            table,
            Passage(longest.text, f"The longest of {longest.variant}:"),
        ],
    )


def _document(report: Report, number: int) -> SideBySide:
    texts = [item for item in report.continuations if item.document == number]
    return SideBySide(
        texts[0].prompt,
        [("reference", texts[0].reference, f"{texts[0].reference_memorised} tokens memorized")]
        + [
            (
                item.variant,
                item.continuation,
                f"BLEU {item.bleu:.1f} · ROUGE-L {item.rouge_l:.1f} · {item.memorised} tokens memorized",
            )
            for item in texts
        ],
    )


def _method(report: Report) -> list[str]:
    facts = report.facts
    part = "the complete test split" if facts.whole_split else "an evenly spread part of the test split"
    fewer = f" ({facts.documents_asked} were requested; the others are too short)"
    return [
        f"Perplexity and bits per byte: {facts.test_tokens:,} tokens of {facts.test_documents:,} documents, {part}. "
        f"Each token is predicted once, in a window of {facts.context} tokens with stride {facts.stride}, so from all "
        f"previous text or at least {facts.context - facts.stride + 1} tokens.",
        f"Intervals: 95%, percentiles of {RESAMPLES:,} bootstrap resamples of the documents. Vs. original: difference "
        f"in bits per byte, paired by document; * marks an interval without 0 over at least {MIN_UNITS} documents.",
        f"BLEU, ROUGE, diversity: greedy completions of {facts.documents} test documents"
        f"{fewer if facts.documents < facts.documents_asked else ''}, {facts.prompt_tokens} tokens of prompt, at most "
        f"{facts.continuation_tokens} new tokens, compared with the document itself.",
        BLEU_METHOD,
        ROUGE_METHOD,
        "Repeated 4-grams: share of a completion's token 4-grams that repeat an earlier one. Distinct n-grams: share "
        f"of different ones. Self-BLEU: of each of at most {MOST_TEXTS} completions against the others; lower is more "
        "diverse.",
        "Memorized tokens: the longest run of a completion's tokens, without its prompt, that is in one document of "
        f"the {facts.train_tokens:,} tokens of the training split.",
        f"Unigram (add-one smoothing) and 5-gram (interpolated modified Kneser-Ney): counted on "
        f"{facts.counted_tokens:,} tokens of the training split, measured on the same test tokens as the models.",
        f'gzip (level {GZIP_LEVEL}), xz (preset {XZ_PRESET}): all test documents as one stream; "xz '
        f'after", with at most {file_size(PRIMER_BYTES)}: bytes that they add to the start of the training text.',
        *([_method_of_general(facts)] if report.general else []),
        "Tokens/s: one sequence at a time, with a KV cache. Memory: the loaded weights.",
    ]


def _method_of_general(facts: Facts) -> str:
    left_out = f"; {facts.general_left_out} more are left out as training data" if facts.general_left_out else ""
    return (
        "General text: fixed passages, about 1,000 bytes each, of everyday prose and of literature in the public domain"
        f"{left_out}. Each passage is predicted on its own; intervals and differences are over passages, as above."
    )
