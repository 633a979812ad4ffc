"""A comparison as tables, for the terminal and the HTML report."""

import math
from collections.abc import Sequence
from typing import Any

from homegrown.comparison.compare import Comparison, Paired, Row, Stage
from homegrown.evaluation.costs import in_words
from homegrown.quantization.variants import ORIGINAL
from homegrown.reporting.blocks import Cell, Table, Verdict
from homegrown.reporting.numbers import shown
from homegrown.util.progress import Metric

_LESS_IS_BETTER = ("bits_per_byte", "perplexity")
_MORE_IS_BETTER = ("bleu", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum")
_NEITHER = ("self_bleu",)  # it ends as one that is
_HEADLINES = ("bits_per_byte", "perplexity", "bleu", "rouge_l", "tokens_per_second")
_DIGITS = 5
_LEGEND = "✓ better, ✗ worse than the base, where the difference on test documents is significant."


def tables(comparison: Comparison, *, intervals: bool = False) -> list[Table]:
    """Return all tables of a comparison: runs, settings, stages, and the metrics of the stages that differ.

    With `intervals`, metrics have their confidence intervals; a terminal is too narrow for these.
    """
    found = [_runs(comparison), _settings(comparison), _stages(comparison)]
    plain = [row for row in _of_different_stages(comparison) if row.variant is None]
    measured = [row for row in _of_different_stages(comparison) if row.variant is not None]
    if plain:
        found.append(_metrics(comparison, "Metrics of each stage", "stage", plain, intervals))
    if measured:
        found.append(_metrics(comparison, "Evaluation on held-out text", "variant", measured, intervals))
    return found


def points_table(comparison: Comparison, setting: str, values: Sequence[str]) -> Table:
    """Return one row for each run of a sweep: its value of the setting, and the most important metrics."""
    rows = headlines(comparison)
    body: list[list[str | Cell]] = []
    for number, (value, run) in enumerate(zip(values, comparison.runs, strict=True)):
        metrics = [Cell(written(row.values[number]), verdict=verdict(row, number)) for row in rows]
        body.append([value, *metrics, run.name])
    stage = f" of {rows[0].stage}" if rows and rows[0].variant is None else ""
    header = [setting, *(row.metric.replace("_", " ") for row in rows), "run"]
    return Table(
        header, body, align="l" + "r" * len(rows) + "l", title=f"Results{stage} by {setting}", notes=_legend(body)
    )


def headlines(comparison: Comparison, most: int = len(_HEADLINES)) -> list[Row]:
    """Return the most important metrics: of the evaluation, or else of the last stage that all runs reached."""
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


def verdict(row: Row, number: int) -> Verdict:
    """Say whether a run's value is better or worse than the base's.

    Empty if the metric has no good side, or no difference by test document that is significant.
    """
    base, value = row.values[0], row.values[number]
    if number == 0 or row.paired is None or not row.paired[number - 1].is_significant:
        return ""
    if not isinstance(value, int | float) or not isinstance(base, int | float) or value == base:
        return ""
    if row.metric in _NEITHER:
        return ""
    if row.metric.endswith(_LESS_IS_BETTER):
        return "better" if value < base else "worse"
    if row.metric.endswith(_MORE_IS_BETTER):
        return "better" if value > base else "worse"
    return ""


def written(value: Metric | None) -> str:
    """Format a metric with five significant digits."""
    return shown(value, _DIGITS)


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
    return Table(["", "run", "recipe", "started (UTC)", "state"], rows, align="lllll", title="Runs")


def _settings(comparison: Comparison) -> Table:
    rows = [[name, *map(_setting, values)] for name, values in comparison.settings.items()]
    notes = [] if rows else ["No setting differs."]
    header = ["setting", *_letters(comparison)]
    return Table(header, rows, title="Settings that differ", notes=notes)


def _setting(value: Any) -> str:
    return "none" if value is None else str(value)


def _stages(comparison: Comparison) -> Table:
    rows = []
    for stage in comparison.stages:
        made = [stage.cell(number) for number in range(len(comparison.runs))]
        rows.append([stage.name, "same" if stage.same else "differs", ", ".join(stage.why), *made])
    notes = []
    if comparison.gone:
        notes.append(f"Deleted by garbage collection, so without metrics: {', '.join(comparison.gone)}.")
    header = ["stage", "key", "because of", *_letters(comparison)]
    return Table(header, rows, align="l" * len(header), title="Stages", notes=notes)


def _metrics(comparison: Comparison, title: str, first: str, rows: list[Row], intervals: bool) -> Table:
    every = {(row.stage, row.variant, row.metric): row for row in rows}
    rows = [row for row in rows if not _is_end(row, every)]
    different = [row for row in rows if len(set(map(str, row.values))) > 1]
    equal = len(rows) - len(different)
    two = len(comparison.runs) == 2
    base, *others = _letters(comparison)
    header = [first, "metric", base]
    header += [others[0], "difference", "%"] if two else others
    body: list[list[str | Cell]] = []
    for row in different:
        ends = [""] * len(row.values)
        if intervals and (row.stage, row.variant, f"{row.metric}_low") in every:
            low, high = (every[row.stage, row.variant, f"{row.metric}_{end}"].values for end in ("low", "high"))
            ends = [f"{written(one)} to {written(other)}" for one, other in zip(low, high, strict=True)]
        name = row.metric.replace("_", " ")
        body.append([row.variant or row.stage, name, *(_two if two else _many)(row, ends)])
    notes = [*_legend(body), *_significance(comparison, rows), *([f"{equal} more metrics are equal."] if equal else [])]
    return Table(header, body, align="ll" + "r" * (len(header) - 2), title=title, notes=notes)


def _significance(comparison: Comparison, rows: list[Row]) -> list[str]:
    """Return a sentence for each run about its bits per byte on test text and whether the difference is significant."""
    found = next((row for row in rows if row.variant == ORIGINAL and row.metric == "bits_per_byte"), None)
    if found is None or found.paired is None:
        return []
    base, *others = _letters(comparison)
    notes = []
    for letter, value, paired in zip(others, found.values[1:], found.paired, strict=True):
        if paired.difference is not None:
            notes.append(in_words(f"The weights of {letter}", f"those of {base}", paired.difference, paired.interval))
        elif value is not None and found.values[0] is not None:
            notes.append(f"{letter} and {base} have different test documents; no difference is called significant.")
    return notes


def _ends(paired: Paired) -> str:
    return f"{_signed(paired.interval.low)} to {_signed(paired.interval.high)}" if paired.interval else ""


def _is_end(row: Row, every: dict[tuple[str, str | None, str], Row]) -> bool:
    """Say whether a metric is an end of another's interval."""
    stem, _, end = row.metric.rpartition("_")
    return end in ("low", "high") and (row.stage, row.variant, stem) in every


def _legend(rows: Sequence[Sequence[str | Cell]]) -> list[str]:
    return [_LEGEND] if any(Cell.of(cell).verdict for row in rows for cell in row) else []


def _two(row: Row, intervals: Sequence[str]) -> list[str | Cell]:
    base, value = row.values
    return [
        Cell(written(base), intervals[0]),
        Cell(written(value), intervals[1]),
        Cell(_signed(row.differences[0]), _ends(row.paired[0]) if row.paired and intervals[0] else "", verdict(row, 1)),
        _percent(row.percent[0]),
    ]


def _many(row: Row, intervals: Sequence[str]) -> list[str | Cell]:
    base, *others = row.values
    return [
        Cell(written(base), intervals[0]),
        *(
            Cell(f"{written(value)} {_percent(percent)}".strip(), interval, verdict(row, number))
            for number, (value, percent, interval) in enumerate(
                zip(others, row.percent, intervals[1:], strict=True), start=1
            )
        ),
    ]


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    return ("+" if value > 0 else "") + written(value)


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{abs(value):.3g}%"


def _of_different_stages(comparison: Comparison) -> list[Row]:
    """Return the metrics of the stages whose artifacts differ between runs."""
    different = {stage.name for stage in comparison.stages if _different(stage)}
    return [row for row in comparison.rows if row.stage in different]


def _different(stage: Stage) -> bool:
    return len({one.path if one else None for one in stage.artifacts}) > 1


def _numbers(row: Row) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in row.values)


def _letters(comparison: Comparison) -> list[str]:
    return [run.letter for run in comparison.runs]
