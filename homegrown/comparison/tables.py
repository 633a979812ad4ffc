"""A comparison as tables, which the terminal and the page both show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from homegrown.comparison.compare import Comparison, Row, Stage
from homegrown.util.progress import Metric

Verdict = Literal["better", "worse", ""]

_LESS_IS_BETTER = ("bits_per_byte", "perplexity", "loss", "repeated_4grams")
_MORE_IS_BETTER = ("bleu", "rouge_1", "rouge_2", "rouge_l", "distinct_2", "tokens_per_second", "flops_utilisation")
_HEADLINES = ("bits_per_byte", "perplexity", "bleu", "rouge_l", "tokens_per_second")


@dataclass(frozen=True)
class Cell:
    """A text, and whether it says that a run did better or worse than the base."""

    text: str
    verdict: Verdict = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first `names` columns are names, the others figures."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    names: int
    notes: list[str] = field(default_factory=list)


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables of a comparison: runs, settings, stages, and the metrics of the stages that differ."""
    found = [_runs(comparison), _settings(comparison), _stages(comparison)]
    plain = [row for row in _of_different_stages(comparison) if row.variant is None]
    measured = [row for row in _of_different_stages(comparison) if row.variant is not None]
    if plain:
        found.append(_metrics(comparison, "What each stage made and measured", "stage", plain))
    if measured:
        found.append(_metrics(comparison, "Evaluation on held-out text", "variant", measured))
    return found


def points_table(comparison: Comparison, setting: str, values: Sequence[str]) -> Table:
    """Return one row for each run: its value of the setting that was swept, and the figures that matter most."""
    rows = headlines(comparison)
    figures = [
        [Cell(written(row.values[number]), verdict(row, row.values[number])) for row in rows]
        for number in range(len(values))
    ]
    made = [
        [Cell(value), *cells, Cell(run.name)]
        for value, cells, run in zip(values, figures, comparison.runs, strict=True)
    ]
    stage = f" of {rows[0].stage}" if rows and rows[0].variant is None else ""
    title = f"{setting}, and what came out{stage}"
    return Table(title, [setting, *(row.metric.replace("_", " ") for row in rows), "run"], made, 1)


def headlines(comparison: Comparison, most: int = len(_HEADLINES)) -> list[Row]:
    """Return the figures that matter most: of the evaluation, or else what differs of the last stage that all have."""
    variants = [row.variant for row in comparison.rows if row.variant]  # the original weights are the first
    evaluated = {row.metric: row for row in comparison.rows if row.variant and row.variant == variants[0]}
    chosen = [evaluated[name] for name in _HEADLINES if name in evaluated]
    if not chosen:
        complete = [stage.name for stage in comparison.stages if all(stage.artifacts)]
        chosen = [
            row
            for row in comparison.rows
            if complete and row.stage == complete[-1] and _numbers(row) and len(set(row.values)) > 1
        ]
    return chosen[:most]


def verdict(row: Row, value: Metric | None) -> Verdict:
    """Say whether a run's value is better or worse than the base's; nothing where nobody could say."""
    base = row.values[0]
    if not isinstance(value, int | float) or not isinstance(base, int | float) or value == base:
        return ""
    if row.metric.endswith(_LESS_IS_BETTER):
        return "better" if value < base else "worse"
    if row.metric.endswith(_MORE_IS_BETTER):
        return "better" if value > base else "worse"
    return ""


def written(value: Metric | None) -> str:
    """Write a figure as people read it, five significant digits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.5g}"
    return text.replace("-", "−", 1) if value < 0 else text


def _runs(comparison: Comparison) -> Table:
    rows = [
        [
            run.label,
            run.name,
            run.recipe,
            f"{run.started:%Y-%m-%d %H:%M}",
            run.state if number else f"{run.state}, base",
        ]
        for number, run in enumerate(comparison.runs)
    ]
    return Table("Runs", ["", "run", "recipe", "began (UTC)", ""], _cells(rows), 5)


def _settings(comparison: Comparison) -> Table:
    rows = [[name, *map(_setting, values)] for name, values in comparison.settings.items()]
    notes = [] if rows else ["No setting differs."]
    return Table("Settings that differ", ["setting", *_letters(comparison)], _cells(rows), 1, notes)


def _setting(value: Any) -> str:
    return "none" if value is None else str(value)


def _stages(comparison: Comparison) -> Table:
    rows = []
    for stage in comparison.stages:
        made = [stage.cell(number) for number in range(len(comparison.runs))]
        rows.append([stage.name, "same" if stage.same else "differs", ", ".join(stage.why), *made])
    notes = []
    if comparison.gone:
        notes.append(f"Taken by garbage collection, so their figures are unknown: {', '.join(comparison.gone)}.")
    return Table("Stages", ["stage", "key", "because of", *_letters(comparison)], _cells(rows), 3, notes)


def _metrics(comparison: Comparison, title: str, first: str, rows: list[Row]) -> Table:
    told = [row for row in rows if len(set(map(str, row.values))) > 1]
    equal = len(rows) - len(told)
    two = len(comparison.runs) == 2
    base, *others = _letters(comparison)
    header = [first, "metric", base]
    header += [others[0], "difference", "%"] if two else others
    body = [
        [Cell(row.variant or row.stage), Cell(row.metric.replace("_", " ")), Cell(written(row.values[0]))]
        + (_two(row) if two else _many(row))
        for row in told
    ]
    return Table(title, header, body, 2, [f"{equal} more figures are equal."] if equal else [])


def _two(row: Row) -> list[Cell]:
    value, by, percent = row.values[1], row.differences[0], row.percent[0]
    said = verdict(row, value)
    return [Cell(written(value)), Cell(_signed(by), said), Cell(_percent(percent), said)]


def _many(row: Row) -> list[Cell]:
    return [
        Cell(f"{written(value)} {_percent(percent)}".strip(), verdict(row, value))
        for value, percent in zip(row.values[1:], row.percent, strict=True)
    ]


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    return ("+" if value > 0 else "−" if value < 0 else "") + written(abs(value))


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{abs(value):.3g}%"


def _of_different_stages(comparison: Comparison) -> list[Row]:
    """Return the metrics of stages of which not all runs have the same artifact."""
    different = {stage.name for stage in comparison.stages if _different(stage)}
    return [row for row in comparison.rows if row.stage in different]


def _different(stage: Stage) -> bool:
    return len({one.path if one else None for one in stage.artifacts}) > 1


def _numbers(row: Row) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in row.values)


def _letters(comparison: Comparison) -> list[str]:
    return [run.letter for run in comparison.runs]


def _cells(rows: Sequence[Sequence[str]]) -> list[list[Cell]]:
    return [[Cell(text) for text in row] for row in rows]
