"""The report of an evaluation: one page of Markdown, and one of HTML that needs nothing from elsewhere."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from homegrown.evaluation.chart import draw


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured for one variant; one row of the table `results`.

    BLEU and ROUGE go from 0 to 100, shares from 0 to 1; megabytes are 10^6 bytes.
    """

    variant: str
    perplexity: float
    bits_per_byte: float
    bleu: float
    rouge_1: float
    rouge_2: float
    rouge_l: float
    repeated_4grams: float
    distinct_2: float
    tokens_per_second: float
    disk_megabytes: float
    memory_megabytes: float
    device: str


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One continuation of one document; one row of the table `continuations`."""

    variant: str
    document: int
    prompt: str
    reference: str
    continuation: str
    bleu: float
    rouge_1: float
    rouge_2: float
    rouge_l: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that both pages show; `documents_asked` may be more than were long enough."""

    results: Sequence[Result]
    continuations: Sequence[Continuation]
    sample: str
    test_tokens: int
    documents: int
    documents_asked: int
    prompt_tokens: int
    continuation_tokens: int


_COLUMNS = (
    ("bits per byte", "bits_per_byte", "{:.4f}"),
    ("perplexity", "perplexity", "{:.2f}"),
    ("BLEU", "bleu", "{:.2f}"),
    ("ROUGE-1", "rouge_1", "{:.1f}"),
    ("ROUGE-2", "rouge_2", "{:.1f}"),
    ("ROUGE-L", "rouge_l", "{:.1f}"),
    ("repeated 4-grams", "repeated_4grams", "{:.1%}"),
    ("distinct 2-grams", "distinct_2", "{:.1%}"),
    ("tokens/s", "tokens_per_second", "{:.0f}"),
    ("disk MB", "disk_megabytes", "{:.1f}"),
    ("memory MB", "memory_megabytes", "{:.1f}"),
    ("device", "device", "{}"),
)

_SHOWN_DOCUMENTS = 6


def markdown(report: Report) -> str:
    """Return the report as Markdown: the table, how it was measured, the sample."""
    fence = "`" * max(3, _longest_run(report.sample, "`") + 1)
    header = ["variant", *(title for title, _, _ in _COLUMNS)]
    rows = [[result.variant, *_cells(result)] for result in report.results]
    table = [header, ["---"] + ["--:"] * len(_COLUMNS), *rows]
    return "\n".join(
        [
            "# Evaluation",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            *(f"- {line}" for line in _method(report)),
            "",
            "## A text of the model's own",
            "",
            fence + "text",
            report.sample,
            fence,
            "",
        ]
    )


def html(report: Report) -> str:
    """Return the report as one HTML page: table, picture, sample, continuations side by side; all text is escaped."""
    picture = base64.b64encode(
        draw(
            [result.variant for result in report.results],
            [result.bits_per_byte for result in report.results],
            [result.disk_megabytes for result in report.results],
        )
    ).decode()
    header = "".join(f"<th>{escape(title)}</th>" for title in ("variant", *(title for title, _, _ in _COLUMNS)))
    rows = "".join(
        f"<tr><th>{escape(result.variant)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(result))}</tr>\n"
        for result in report.results
    )
    method = "".join(f"<li>{escape(line)}</li>\n" for line in _method(report))
    documents = "\n".join(_document(report, number) for number in range(min(report.documents, _SHOWN_DOCUMENTS)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Evaluation</h1>
<div class="wide"><table>
<thead><tr>{header}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
<img src="data:image/png;base64,{picture}" alt="Bits per byte and size on disk of each variant, as in the table">
<ul>
{method}</ul>
<h2>A text of the model's own</h2>
<pre>{escape(report.sample)}</pre>
<h2>Held-out documents continued</h2>
{documents}
</body>
</html>
"""


def _cells(result: Result) -> list[str]:
    return [form.format(getattr(result, name)) for _, name, form in _COLUMNS]


def _method(report: Report) -> list[str]:
    fewer = f" ({report.documents_asked} were asked for; no more are long enough)"
    return [
        f"Perplexity and bits per byte: {report.test_tokens:,} tokens of the test split, in windows of the model's "
        "context side by side.",
        f"BLEU, ROUGE, repetition: {report.documents} test documents"
        f"{fewer if report.documents < report.documents_asked else ''}, {report.prompt_tokens} tokens given, up to "
        f"{report.continuation_tokens} written, the likeliest each time, against the document's own.",
        "BLEU-4: nltk's corpus_bleu, wordpunct_tokenize, exponential smoothing (method 3). ROUGE: F1 by rouge-score, "
        "words of any script, no stemming. Both from 0 to 100.",
        "Repeated 4-grams: share of a continuation's token 4-grams that it had before. Distinct 2-grams: share of "
        "different token pairs among all.",
        "Tokens/s: one sequence at a time, with a cache. Memory: the weights once loaded.",
    ]


def _document(report: Report, number: int) -> str:
    texts = [item for item in report.continuations if item.document == number]
    columns = [("the document", texts[0].reference, "")] + [
        (item.variant, item.continuation, f"BLEU {item.bleu:.1f} · ROUGE-L {item.rouge_l:.1f}") for item in texts
    ]
    cells = "\n".join(
        f"<div><h3>{escape(title)}</h3><p>{escape(text)}</p><small>{escape(note)}</small></div>"
        for title, text, note in columns
    )
    return f'<section><pre>{escape(texts[0].prompt)}</pre>\n<div class="side">\n{cells}\n</div></section>'


def _longest_run(text: str, character: str) -> int:
    longest = current = 0
    for found in text:
        current = current + 1 if found == character else 0
        longest = max(longest, current)
    return longest


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: .85rem; margin: 0; opacity: .7; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { white-space: normal; vertical-align: bottom; }
img { max-width: 100%; margin: 1.5rem 0; background: white; border-radius: 6px; }
pre, .side p { white-space: pre-wrap; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 6px; }
section { margin: 1.5rem 0 2.5rem; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; }
.side p { margin: .2rem 0 .4rem; }
"""
