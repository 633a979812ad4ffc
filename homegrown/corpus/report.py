"""The report of a corpus: one HTML page that needs nothing from elsewhere, every text in it escaped."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from homegrown.corpus.account import BINS_PER_DECADE, Account, Cluster, Example, Reason, RuleCount

_STAGES = {"ingest": "read", "dedup": "without duplicates", "filter": "passed the rules", "shard": "in shards"}


def html(account: Account) -> str:
    """Return the page: funnel, lengths, sources, languages, rules with examples, duplicates, quarantine."""
    parts = [
        _section("From what was read to what is kept", _funnel(account)),
        _section("Lengths", _lengths(account.lengths)),
        _section("Sources", _sources(account.sources)),
        _section("Languages", _languages(account)),
        _section("Rules", _rules(account)),
        _section("Duplicates", _duplicates(account)),
        _section("Quarantine", _quarantine(account.quarantine)),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Corpus</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Corpus</h1>
{"".join(parts)}
</body>
</html>
"""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>\n" if body else ""


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table; cells are HTML already."""
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _bar(share: float) -> str:
    return f'<div class="bar"><i style="width:{100 * min(1.0, share):.2f}%"></i></div>'


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _funnel(account: Account) -> str:
    first = account.steps[0]
    rows = []
    for number, step in enumerate(account.steps):
        before = account.steps[number - 1] if number else step
        lost = before.documents - step.documents
        share = f"−{lost:,} ({lost / max(1, before.documents):.1%})" if lost else ""
        name = f"{_STAGES[step.name]} <small>{escape(step.artifact)}{escape(step.note and f': {step.note}')}</small>"
        left = step.bytes / max(1, first.bytes)
        rows.append((name, f"{step.documents:,}", share, _megabytes(step.bytes), f"{left:.1%}", _bar(left)))
    return _table(("", "documents", "fewer", "text", "of the first", ""), rows)


def _lengths(lengths: dict[str, Counter[int]]) -> str:
    """Return a histogram (SVG) of the first stage's documents and, before it, of the last one's."""
    if not lengths:
        return ""
    _, first = next(iter(lengths.items()))
    _, last = next(reversed(lengths.items()))
    low, high = min(first), max(first)
    most = max(first.values())
    width, height = 26, 160
    shapes = []
    for place, number in enumerate(range(low, high + 1)):
        size, later = 10 ** (number / BINS_PER_DECADE), 10 ** ((number + 1) / BINS_PER_DECADE)
        title = f"{size:,.0f} to {later:,.0f} characters: {first[number]:,} read, {last[number]:,} kept"
        bars = "".join(
            f'<rect class="{kind}" x="{place * width + 2}" width="{width - 4}" '
            f'y="{height - height * count / most:.1f}" height="{height * count / most:.1f}"/>'
            for kind, count in (("read", first[number]), ("kept", last[number]))
        )
        shapes.append(f"<g><title>{title}</title>{bars}</g>")
        if number % BINS_PER_DECADE == 0:
            shapes.append(f'<text x="{place * width}" y="{height + 16}">{_rounded(size)}</text>')
    total = (high - low + 1) * width
    return (
        f'<svg viewBox="-10 -4 {total + 30} {height + 24}" style="max-width:{total + 30}px" role="img" '
        f'aria-label="Histogram of the documents\' lengths">{"".join(shapes)}</svg>\n'
        '<p class="key"><i class="read"></i> read <i class="kept"></i> kept, by characters on a logarithmic scale</p>'
    )


def _rounded(number: float) -> str:
    return f"{number / 1e6:.0f}M" if number >= 1e6 else f"{number / 1e3:.0f}k" if number >= 1e3 else f"{number:.0f}"


def _sources(sources: list[tuple[str, int, int, int, int]]) -> str:
    total = max(1, sum(size for *_, size in sources))
    rows = [
        (
            escape(name),
            f"{many:,}",
            _megabytes(size),
            f"{left:,}",
            _megabytes(kept),
            f"{kept / total:.1%}",
            _bar(kept / total),
        )
        for name, many, size, left, kept in sources
    ]
    return _table(("source", "documents read", "text read", "documents kept", "text kept", "of all", ""), rows)


def _languages(account: Account) -> str:
    if not account.sampled:
        return ""
    shown, others = account.languages[:12], account.languages[12:]
    counted = [*shown, *([(f"{len(others)} others", sum(count for _, count in others))] if others else [])]
    rows = [
        (escape(code), f"{count:,}", f"{count / account.sampled:.1%}", _bar(count / account.sampled))
        for code, count in counted
    ]
    return f"<p>Identified on {account.sampled:,} random documents that were kept.</p>\n" + _table(
        ("language", "documents", "of the sample", ""), rows
    )


def _rules(account: Account) -> str:
    if not account.rules:
        return ""
    most = max(1, *(rule.dropped for rule in account.rules))
    rows = [_rule(rule, account.judged, most) for rule in account.rules]
    quiet = [rule for rule in account.rules if not rule.dropped]
    note = f"<p>No document went for: {', '.join(escape(rule.name) for rule in quiet)}.</p>\n" if quiet else ""
    head = (
        "<p>Each document is counted with the first rule that it fails. Open a rule for random examples of what it "
        "dropped, with the measured value.</p>\n"
    )
    return head + "".join(row for row, rule in zip(rows, account.rules, strict=True) if rule.dropped) + note


def _rule(rule: RuleCount, judged: int, most: int) -> str:
    bound = "" if rule.threshold is None else f" <small>{rule.threshold:g}</small>"
    also = f"{rule.failed:,} fail it" if rule.failed != rule.dropped else ""
    cards = "".join(_card(example, number, len(rule.examples)) for number, example in enumerate(rule.examples, 1))
    return (
        f'<details><summary><span class="name">{escape(rule.name)}{bound}</span>'
        f"<span>{rule.dropped:,}</span><span>{rule.dropped / max(1, judged):.2%}</span>"
        f'<span class="also">{also}</span>{_bar(rule.dropped / most)}</summary>\n'
        f'<div class="pages">{cards}</div></details>\n'
    )


def _card(example: Example, number: int, of: int) -> str:
    return (
        f"<article><small>{number} of {of} · measured {example.value:.4g}, threshold {example.threshold:.4g} · "
        f"{escape(example.id)}</small><pre>{escape(example.text)}</pre></article>\n"
    )


def _duplicates(account: Account) -> str:
    if not account.duplicates:
        return ""
    kinds = ", ".join(f"{count:,} {escape(kind)}" for kind, count in sorted(account.duplicates.items()))
    shown = "".join(_cluster(cluster) for cluster in account.clusters)
    return f"<p>Dropped: {kinds}. The largest clusters, the kept text beside the one least like it:</p>\n{shown}"


def _cluster(cluster: Cluster) -> str:
    first = cluster.kept.strip().partition("\n")[0][:90]
    return (
        f'<details><summary><span class="name">{escape(first)}</span><span>{cluster.size:,} documents</span>'
        f"<span>{cluster.similarity:.2f} alike</span></summary>\n"
        f'<div class="side"><div><small>kept</small><pre>{escape(cluster.kept)}</pre></div>'
        f"<div><small>dropped</small><pre>{escape(cluster.dropped)}</pre></div></div></details>\n"
    )


def _quarantine(reasons: list[Reason]) -> str:
    if not reasons:
        return "<p>Everything could be read.</p>"
    return "".join(
        f'<details><summary><span class="name">{escape(one.reason)}</span><span>{one.count:,}</span></summary>\n'
        f"<pre>{escape(chr(10).join(one.examples))}</pre></details>\n"
        for one in reasons
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --kept: #3b6ea5; --read: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
small { opacity: .65; font-weight: normal; font-size: .85em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; } td:last-child { width: 28%; }
thead th { font-weight: normal; opacity: .65; font-size: .85em; }
.bar { background: var(--soft); height: .8rem; border-radius: 3px; overflow: hidden; min-width: 6rem; }
.bar i { display: block; height: 100%; background: var(--kept); }
svg { width: 100%; font: 11px system-ui, sans-serif; } svg text { fill: currentColor; opacity: .65; }
rect.read, .key .read { fill: var(--read); background: var(--read); }
rect.kept, .key .kept { fill: var(--kept); background: var(--kept); }
.key { font-size: .85em; opacity: .8; } .key i { display: inline-block; width: .8em; height: .8em; margin-left: .6em; }
details { border-bottom: 1px solid var(--line); }
summary { display: flex; gap: 1rem; padding: .35rem 0; cursor: pointer; font-variant-numeric: tabular-nums; }
summary::before { content: "▸"; opacity: .5; } details[open] > summary::before { content: "▾"; }
summary span { min-width: 4.5rem; text-align: right; } summary .also { min-width: 8rem; opacity: .65; }
summary .name { flex: 1; text-align: left; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
summary .bar { width: 12rem; align-self: center; }
.pages { display: flex; gap: 1rem; overflow-x: auto; scroll-snap-type: x mandatory; padding-bottom: .8rem; }
.pages article { flex: 0 0 min(46rem, 92%); scroll-snap-align: start; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .7rem 1rem; border-radius: 6px;
  max-height: 22rem; overflow-y: auto; font-size: .85em; margin: .3rem 0 .8rem; }
.side { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 40rem) { .side { grid-template-columns: 1fr; } summary .bar { display: none; } }
"""
