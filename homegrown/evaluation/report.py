"""The report of an evaluation, in sections that a page of Markdown and one of HTML both show."""

from collections.abc import Callable, Sequence

from homegrown.evaluation.bootstrap import RESAMPLES
from homegrown.evaluation.chart import draw_memorised, draw_models
from homegrown.evaluation.compressors import GZIP_LEVEL, PRIMER_BYTES, XZ_PRESET
from homegrown.evaluation.diversity import MOST_TEXTS
from homegrown.evaluation.overlap import BLEU_METHOD, ROUGE_METHOD
from homegrown.evaluation.results import Report, Result
from homegrown.reporting.blocks import (
    Cell,
    Group,
    Lines,
    Passage,
    Picture,
    Section,
    SideBySide,
    Table,
    as_html,
    as_markdown,
)

TITLE = "Evaluation"
_SHOWN_DOCUMENTS = 6
_SHOWN_SOURCES = 30


def markdown(report: Report) -> str:
    """Return the report as one page of Markdown."""
    return f"# {TITLE}\n\n{as_markdown(sections(report))}"


def html(report: Report) -> str:
    """Return the report as one page of HTML that needs nothing from elsewhere."""
    return as_html(TITLE, sections(report))


def sections(report: Report, news: Sequence[str] = (), groups: Sequence[Group] = ()) -> list[Section]:
    """Return everything there is to see of an evaluation.

    `news` are sentences to say below the table of models, and `groups` columns to add to it, a cell for each result.
    """
    said = [Lines(news)] if news else []
    return [
        Section(
            "All models side by side", [models_table(report.results, groups), *said, models_picture(report.results)]
        ),
        *([_by_source(report)] if len({row.source for row in report.sources}) > 1 else []),
        _memorised(report),
        Section("A text of the model's own", [Passage(report.sample)]),
        Section(
            "Held-out documents continued",
            [_document(report, number) for number in range(min(report.facts.documents, _SHOWN_DOCUMENTS))],
        ),
        Section("How it was measured", [Lines(_method(report))]),
    ]


def models_table(results: Sequence[Result], more: Sequence[Group] = ()) -> Table:
    """Return every figure of every model, and the columns `more` after them."""
    groups = [
        Group(title, [name for name, _ in columns], [[show(row) for _, show in columns] for row in results])
        for title, columns in _GROUPS
    ]
    return Table("model", [row.variant for row in results], [*groups, *more])


def models_picture(results: Sequence[Result]) -> Picture:
    """Return the picture that goes with the table."""
    return Picture(draw_models(results), "Bits per byte, speed and size of each model, as in the table")


_Show = Callable[[Result], Cell]


def _plain(name: str, form: str) -> _Show:
    def show(row: Result) -> Cell:
        value = getattr(row, name)
        return Cell("" if value is None else form.format(value))

    return show


def _measured(name: str, form: str) -> _Show:
    """Return what shows a figure with its interval."""

    def show(row: Result) -> Cell:
        value, low, high = (getattr(row, name + ending) for ending in ("", "_low", "_high"))
        text = "" if value is None else form.format(value)
        return Cell(text, "" if low is None else f"{form.format(low)} to {form.format(high)}")

    return show


def _difference(row: Result) -> Cell:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return Cell("")
    significant = row.difference_low > 0 or row.difference_high < 0
    interval = f"{row.difference_low:+.4f} to {row.difference_high:+.4f}"
    return Cell(f"{row.difference:+.4f}{' *' if significant else ''}", interval)


_GROUPS: tuple[tuple[str, tuple[tuple[str, _Show], ...]], ...] = (
    (
        "prediction",
        (
            ("bits per byte", _measured("bits_per_byte", "{:.4f}")),
            ("above the original", _difference),
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
        "known tokens in a row",
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
    """Show bits per byte by source, one column for each model."""
    variants = list(dict.fromkeys(row.variant for row in report.sources))
    sources = list(dict.fromkeys(row.source for row in report.sources))
    found = {(row.variant, row.source): row for row in report.sources}
    shown = sources[:_SHOWN_SOURCES]
    text, cells = [], []
    for source in shown:
        rows = [found[variant, source] for variant in variants]
        text.append([Cell(f"{rows[0].documents:,}"), Cell(f"{rows[0].bytes / 1e6:,.3g}")])
        cells.append(
            [
                Cell(f"{row.bits_per_byte:.4f}", f"{row.bits_per_byte_low:.4f} to {row.bits_per_byte_high:.4f}")
                for row in rows
            ]
        )
    groups = [Group("held out", ["documents", "MB"], text), Group("bits per byte", variants, cells)]
    more = (
        [Lines([f"{len(sources) - len(shown)} more sources are in the table `sources`."])]
        if sources[len(shown) :]
        else []
    )
    return Section("By source", [Table("source", shown, groups), *more])


def _memorised(report: Report) -> Section:
    """Show how much of what was written stands in the training text, beside the held-out text itself."""
    lengths: dict[str, list[int]] = {}
    for row in report.continuations:
        lengths.setdefault(row.variant, []).append(row.memorised)
    first = next(iter(lengths))
    base = report.memorised[-1].variant
    lengths[base] = [row.reference_memorised for row in report.continuations if row.variant == first]
    cells = [[Cell(f"{row.tokens}"), Cell(row.source), Cell(row.document)] for row in report.memorised]
    table = Table(
        "longest run", [row.variant for row in report.memorised], [Group("", ["tokens", "source", "document"], cells)]
    )
    longest = report.memorised[0]
    return Section(
        "What stands in the training text word for word",
        [
            Picture(draw_memorised(lengths), "Longest run of known tokens, continuations beside held-out text"),
            table,
            Lines([f"The longest of {longest.variant}:"]),
            Passage(longest.text),
        ],
    )


def _document(report: Report, number: int) -> SideBySide:
    texts = [item for item in report.continuations if item.document == number]
    known = "known in a row"
    return SideBySide(
        texts[0].prompt,
        [("the document", texts[0].reference, f"{texts[0].reference_memorised} tokens {known}")]
        + [
            (
                item.variant,
                item.continuation,
                f"BLEU {item.bleu:.1f} · ROUGE-L {item.rouge_l:.1f} · {item.memorised} tokens {known}",
            )
            for item in texts
        ],
    )


def _method(report: Report) -> list[str]:
    facts = report.facts
    fewer = f" ({facts.documents_asked} were asked for; no more are long enough)"
    whole = "the whole test split" if facts.whole_split else "a part of the test split, spread evenly"
    return [
        f"Perplexity and bits per byte: {facts.test_tokens:,} tokens of {facts.test_documents:,} documents, {whole}, "
        f"each predicted once in a window of {facts.context} tokens that slides by {facts.stride}: from all of the "
        f"text before it, or at least {facts.context - facts.stride + 1} tokens.",
        f"Intervals: 95%, percentiles of {RESAMPLES:,} resamples of the documents. Above the original: bits per byte, "
        "paired by document; * where the interval is on one side of 0.",
        f"BLEU, ROUGE, diversity: {facts.documents} test documents"
        f"{fewer if facts.documents < facts.documents_asked else ''}, {facts.prompt_tokens} tokens given, up to "
        f"{facts.continuation_tokens} written, the likeliest each time, against the document's own.",
        BLEU_METHOD,
        ROUGE_METHOD,
        "Repeated 4-grams: share of a continuation's token 4-grams that it had before. Distinct n-grams: share of "
        f"different ones among all. Self-BLEU: of each of up to {MOST_TEXTS} continuations with the others as "
        "references; lower is more diverse.",
        "Known tokens in a row: the longest run of a continuation's tokens, its prompt not counted, that stands in one "
        f"document of the {facts.train_tokens:,} tokens of the training split.",
        f"unigram (one added to each count), 5-gram (interpolated modified Kneser-Ney): counted on "
        f"{facts.counted_tokens:,} tokens of the training split; the same test tokens as the models'.",
        f"gzip (level {GZIP_LEVEL}), xz (preset {XZ_PRESET}): all test documents end to end; after "
        f"{PRIMER_BYTES / 1e6:.0f} MB: what they add to so much training text.",
        "Tokens/s: one sequence at a time, with a cache. Memory: the weights once loaded.",
    ]
