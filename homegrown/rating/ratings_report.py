"""The report of ratings: a table for the terminal, and an HTML page with a chart."""

import math

from homegrown.rating.ratings import CRITERIA, HIGHEST, LOWEST
from homegrown.rating.summary import RESAMPLES, Mean, Summary
from homegrown.reporting import charts
from homegrown.reporting.blocks import Block, Cell, Paragraph, Picture, Section, Table
from homegrown.reporting.html import as_html
from homegrown.reporting.numbers import quantity

TITLE = "Ratings by people"


def table(summary: Summary) -> Table:
    """Return a row for each system and one for the agreement between raters."""
    rows: list[list[str | Cell]] = [
        [
            system,
            *(_cell(means.get(name)) for name in CRITERIA),
            str(max(mean.completions for mean in means.values())),
        ]
        for system, means in summary.means.items()
    ]
    alphas = [f"{summary.agreement[name]:.2f}" if name in summary.agreement else "–" for name in CRITERIA]
    rows.append(["agreement (alpha)", *alphas, str(summary.shared)])
    return Table(["system", *CRITERIA, "completions"], rows)


def method(summary: Summary) -> str:
    """Describe the sample, the intervals and the agreement."""
    rated = f"{quantity(summary.raters, 'raters')}; {quantity(summary.completions, 'completions')}"
    return (
        f"{rated}, {summary.shared} of them rated by more than one. Mean scores from {LOWEST} to {HIGHEST}; each "
        f"completion counts once. Intervals: 95%, {RESAMPLES:,} bootstrap resamples of the completions. Agreement: "
        "Krippendorff's alpha for ordinal scores; 1 is full agreement, 0 is chance, and he advises against conclusions "
        "below 0.67."
    )


def html(summary: Summary) -> str:
    """Return the page."""
    picture = Picture(draw(summary), "Mean scores with intervals, as in the table")
    blocks: list[Block] = [table(summary), picture, Paragraph(method(summary))]
    return as_html(TITLE, [Section("Mean scores", blocks)])


def draw(summary: Summary) -> bytes:
    """Return a PNG: for each criterion, the mean score of each system as a point with its interval."""
    systems = list(summary.means)
    figure = charts.figure(9, 1.1 + (0.35 + 0.17 * len(systems)) * len(CRITERIA))
    axes = figure.subplots()
    for number, system in enumerate(systems):
        color, marker, line = charts.series(number)
        for place, name in enumerate(CRITERIA):
            mean = summary.means[system].get(name)
            if mean is None:
                continue
            height = place + 0.7 * ((number + 0.5) / len(systems) - 0.5)
            label = system if name == next(iter(summary.means[system])) else None
            axes.plot(mean.mean, height, marker, color=color, markersize=5, label=label)
            if math.isfinite(mean.low):
                axes.plot([mean.low, mean.high], [height, height], color=color, linewidth=1.6, linestyle=line)
    axes.set_yticks(range(len(CRITERIA)), list(CRITERIA))
    axes.invert_yaxis()
    axes.set_xlim(LOWEST - 0.1, HIGHEST + 0.1)
    axes.set_xticks(range(LOWEST, HIGHEST + 1))
    axes.grid(axis="x", alpha=0.2)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    charts.style(axes, "Mean scores with 95% intervals")
    return charts.png(figure)


def _cell(mean: Mean | None) -> Cell:
    if mean is None:
        return Cell("–")
    return Cell(f"{mean.mean:.2f}", f"{mean.low:.2f}–{mean.high:.2f}" if math.isfinite(mean.low) else "")
