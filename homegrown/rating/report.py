"""The report of ratings: the same table for the terminal and for one HTML page with a picture."""

import base64
import math
from html import escape
from io import BytesIO

from matplotlib import colormaps
from matplotlib.figure import Figure

from homegrown.rating.answers import CRITERIA, HIGHEST, LOWEST
from homegrown.rating.summary import RESAMPLES, Mean, Summary


def table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: a row for each system, then one for the agreement between raters."""
    header = ["written by", *CRITERIA, "texts"]
    rows = [
        [
            system,
            *(_cell(means.get(name)) for name in CRITERIA),
            str(max(mean.texts for mean in means.values())),
        ]
        for system, means in summary.means.items()
    ]
    alphas = [f"{summary.agreement[name]:.2f}" if name in summary.agreement else "–" for name in CRITERIA]
    return header, [*rows, ["agreement (alpha)", *alphas, str(summary.shared_texts)]]


def method(summary: Summary) -> str:
    """Say how many rated what, and how intervals and agreement are computed."""
    people = "1 rater" if summary.raters == 1 else f"{summary.raters} raters"
    return (
        f"{people}, {summary.texts} texts, {summary.shared_texts} of them rated by more than one. Means of scores from "
        f"{LOWEST} to {HIGHEST}, each text counting once, with the 95% interval of {RESAMPLES:,} bootstrap resamples "
        "of the texts. Agreement: Krippendorff's alpha for ordinal scores; 1 is full agreement, 0 what chance would "
        "give, and he advises against conclusions below 0.67."
    )


def html(summary: Summary) -> str:
    """Return the report as one page that needs nothing from elsewhere, every text in it escaped."""
    header, rows = table(summary)
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    picture = base64.b64encode(draw(summary)).decode()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>What people think of the texts</title><style>{_STYLE}</style></head>
<body><h1>What people think of the texts</h1>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table></div>
<img src="data:image/png;base64,{picture}" alt="Mean scores with intervals, as in the table">
<p>{escape(method(summary))}</p></body></html>
"""


def draw(summary: Summary) -> bytes:
    """Return a PNG: for each criterion, the mean score of each system as a dot with its interval."""
    systems = list(summary.means)
    figure = Figure(figsize=(9, 1.1 + (0.35 + 0.17 * len(systems)) * len(CRITERIA)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, system in enumerate(systems):
        colour = colormaps["tab10"](number % 10)
        for place, name in enumerate(CRITERIA):
            mean = summary.means[system].get(name)
            if mean is None:
                continue
            height = place + 0.7 * ((number + 0.5) / len(systems) - 0.5)
            label = system if name == next(iter(summary.means[system])) else None
            axes.plot(mean.mean, height, "o", color=colour, markersize=5, label=label)
            if math.isfinite(mean.low):
                axes.plot([mean.low, mean.high], [height, height], color=colour, linewidth=1.6)
    axes.set_yticks(range(len(CRITERIA)), list(CRITERIA))
    axes.invert_yaxis()
    axes.set_xlim(LOWEST - 0.1, HIGHEST + 0.1)
    axes.set_xticks(range(LOWEST, HIGHEST + 1))
    axes.grid(axis="x", alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    picture = BytesIO()
    figure.savefig(picture, format="png", facecolor="white", metadata={"Software": None})
    return picture.getvalue()


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return f"{mean.mean:.2f}" + (f" ({mean.low:.2f}–{mean.high:.2f})" if math.isfinite(mean.low) else "")


_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { font-weight: normal; opacity: .65; font-size: .85em; }
img { max-width: 100%; margin: 1.5rem 0; background: white; border-radius: 6px; }
"""
