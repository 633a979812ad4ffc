"""The HTML report of a corpus: what was read, dropped and kept, with examples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from homegrown.corpus.account import BINS_PER_DECADE, Account, Cluster, Example, Reason, RuleCount
from homegrown.reporting import charts
from homegrown.reporting.blocks import Block, Cell, Details, Paragraph, Passage, Picture, Section, SideBySide, Table
from homegrown.reporting.html import as_html
from homegrown.reporting.numbers import file_size, share

_STAGES = {"ingest": "read", "dedup": "deduplicated", "filter": "filtered", "shard": "sharded"}
_LANGUAGES = 12
_LANGUAGES_JUDGED = 30
_TITLE = 90  # characters


def html(account: Account) -> str:
    """Return the page: input, funnel, lengths, sources, languages, rules with examples, duplicates, quarantine."""
    parts: dict[str, list[Block]] = {
        "Input": [replace(input_table(account.inputs), title="")] if account.inputs else [],
        "Documents per stage": [_funnel(account)],
        "Lengths": _lengths(account.lengths),
        "Sources": [_sources(account.sources)],
        "Languages": _languages(account),
        "Rules": _rules(account),
        "Duplicates": _duplicates(account),
        "Repairs": _repairs(account),
        "Skipped": _reasons(account.skipped),
        "Quarantine": _reasons(account.quarantine) or [Paragraph("All input was readable.")],
    }
    return as_html("Corpus", [Section(title, blocks) for title, blocks in parts.items() if blocks])


_INPUT = {  # column of the sources' counts: heading
    "files": "files read",
    "skipped": "skipped",
    "documents": "documents",
    "quarantined": "quarantined",
    "invalid_bytes": "invalid bytes",
    "repaired": "repaired",
}


def input_table(sources: Sequence[dict[str, Any]]) -> Table:
    """Return what was read of each source: files, documents, skipped and quarantined input, repairs."""
    rows: list[list[str | Cell]] = [[one["source"], *(f"{one[name]:,}" for name in _INPUT)] for one in sources]
    return Table(["source", *_INPUT.values()], rows, title="Input")


def _funnel(account: Account) -> Table:
    first = account.steps[0]
    rows: list[list[str | Cell]] = []
    for number, step in enumerate(account.steps):
        before = account.steps[number - 1] if number else step
        lost = before.documents - step.documents
        dropped = f"−{lost:,} ({share(lost, before.documents)})" if lost else ""
        note = f"{step.artifact}: {step.note}" if step.note else step.artifact
        left = step.bytes / max(1, first.bytes)
        kept = Cell(f"{left:.1%}", bar=left)
        rows.append([Cell(_STAGES[step.name], note=note), f"{step.documents:,}", dropped, file_size(step.bytes), kept])
    return Table(["stage", "documents", "dropped", "text", "text kept"], rows)


def _lengths(lengths: dict[str, Counter[int]]) -> list[Block]:
    """Return a histogram of the documents of the first stage and of the last, and the same as a table."""
    if not lengths:
        return []
    _, read = next(iter(lengths.items()))
    _, kept = next(reversed(lengths.items()))
    bins = range(min(read), max(read) + 1)
    edges = [10 ** (number / BINS_PER_DECADE) for number in [*bins, bins.stop]]
    title = "Documents by length, read and kept"
    drawn = charts.histogram(
        edges,
        [kept[number] for number in bins],
        title,
        "characters, logarithmic",
        behind=[read[number] for number in bins],
        keys=("kept", "read"),
        logarithmic=True,
    )
    rows = [
        [f"{edges[place]:,.0f} to {edges[place + 1]:,.0f}", f"{read[number]:,}", f"{kept[number]:,}"]
        for place, number in enumerate(bins)
    ]
    return [Picture(drawn, title), Details(["The same as a table"], [Table(["characters", "read", "kept"], rows)])]


def _sources(sources: list[tuple[str, int, int, int, int]]) -> Table:
    total = max(1, sum(size for *_, size in sources))
    rows: list[list[str | Cell]] = [
        [
            name,
            f"{documents:,}",
            file_size(size),
            f"{left:,}",
            file_size(kept),
            Cell(f"{kept / total:.1%}", bar=kept / total),
        ]
        for name, documents, size, left, kept in sources
    ]
    header = ["source", "documents read", "text read", "documents kept", "text kept", "share of the kept text"]
    return Table(header, rows)


def _languages(account: Account) -> list[Block]:
    if not account.sampled:
        return []
    shown, others = account.languages[:_LANGUAGES], account.languages[_LANGUAGES:]
    counted = [*shown, *([(f"{len(others)} others", sum(count for _, count in others))] if others else [])]
    rows: list[list[str | Cell]] = [
        [code, f"{count:,}", Cell(share(count, account.sampled), bar=count / account.sampled)]
        for code, count in counted
    ]
    note = f"Identified on {account.sampled:,} random documents that were kept."
    return [*_by_language(account), Table(["language", "documents", "share of the sample"], rows, notes=[note])]


def _by_language(account: Account) -> list[Block]:
    """Return the filter's funnel by language: of all documents, if it identified them."""
    if sum(row[1] for row in account.by_language) < account.judged or not account.judged:
        return []
    rows: list[list[str | Cell]] = [
        [
            language,
            f"{documents:,}",
            f"{kept:,}",
            Cell(share(kept, documents), bar=kept / documents),
            f"{rule} ({dropped:,})" if rule else "",
        ]
        for language, documents, kept, rule, dropped in account.by_language[:_LANGUAGES_JUDGED]
    ]
    hidden = len(account.by_language) - len(rows)
    notes = ["zxx: text without a language."] + [f"{hidden:,} rarer languages: filter.by_language."] * (hidden > 0)
    return [Table(["language", "documents", "kept", "of these", "most dropped by"], rows, notes=notes)]


def _rules(account: Account) -> list[Block]:
    if not account.rules:
        return []
    most = max(1, *(rule.dropped for rule in account.rules))
    quiet = [rule.name for rule in account.rules if not rule.dropped]
    return [
        Paragraph(
            "Each document counts for the first rule that it fails. Open a rule for random examples of the documents "
            "it dropped, with the measured value."
        ),
        *(_rule(rule, account.judged, most) for rule in account.rules if rule.dropped),
        *([Paragraph(f"Rules that dropped no document: {', '.join(quiet)}.")] if quiet else []),
    ]


def _rule(rule: RuleCount, judged: int, most: int) -> Details:
    threshold = "" if rule.threshold is None else f"threshold {rule.threshold:g}"
    failed = f"{rule.failed:,} fail it" if rule.failed != rule.dropped else ""
    line: list[str | Cell] = [
        Cell(rule.name, note=threshold),
        failed,
        f"{rule.dropped:,}",
        f"{rule.dropped / max(1, judged):.2%}",
        Cell("", bar=rule.dropped / most),
    ]
    return Details(line, [_example(example, number, rule) for number, example in enumerate(rule.examples, 1)])


def _example(example: Example, number: int, rule: RuleCount) -> Passage:
    note = (
        f"{number} of {len(rule.examples)} · measured {example.value:.4g}, threshold {example.threshold:.4g} · "
        f"{example.id}"
    )
    return Passage(example.text, note)


def _duplicates(account: Account) -> list[Block]:
    if not account.duplicates:
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(account.duplicates.items()))
    return [
        Paragraph(f"Dropped: {kinds}. The largest clusters, each kept text beside its least similar duplicate:"),
        *map(_cluster, account.clusters),
    ]


def _cluster(cluster: Cluster) -> Details:
    first = cluster.kept.strip().partition("\n")[0][:_TITLE]
    line = [first, f"{cluster.size:,} documents", f"similarity {cluster.similarity:.2f}"]
    return Details(line, [SideBySide("", [("kept", cluster.kept, ""), ("dropped", cluster.dropped, "")])])


def _repairs(account: Account) -> list[Block]:
    """Return repaired documents by source, with lines before and after."""
    found: list[Block] = []
    for source, count, examples in account.repairs:
        lines = [f"{place}\n  before: {before}\n  after:  {after}" for place, before, after in examples]
        found.append(Details([source, f"{count:,} documents"], [Passage("\n".join(lines))]))
    return found


def _reasons(reasons: Sequence[Reason]) -> list[Block]:
    return [Details([one.reason, f"{one.count:,}"], [Passage("\n".join(one.examples))]) for one in reasons]
