"""Differences between runs in settings, stages, metrics and evaluation; the first run is the base."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.evaluation.bootstrap import Interval, interval, mean_interval
from homegrown.evaluation.costs import TestDocuments
from homegrown.evaluation.overlap import bleu_counts, bleu_of_counts
from homegrown.quantization.variants import ORIGINAL
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.differences import differing, reasons_between
from homegrown.store.manifest import Artifact
from homegrown.store.runs import RunRecord, State
from homegrown.training.job import METRICS
from homegrown.util.files import parquet_parts, read_parquet
from homegrown.util.progress import Metric


@dataclass(frozen=True)
class Run:
    """One of the compared runs."""

    name: str
    recipe: str
    started: datetime
    state: State
    label: str
    """A letter for tables, with the value of the setting that differs if it is the only one."""

    @property
    def letter(self) -> str:
        """The label without the setting."""
        return self.label.partition(" ")[0]


@dataclass(frozen=True)
class Stage:
    """One stage of each run."""

    name: str
    keys: list[str | None]
    """None if the run did not reach the stage."""
    artifacts: list[Artifact | None]
    """None also after garbage collection."""
    why: list[str]
    """Why keys differ from the base's; empty if all are equal."""

    @property
    def same(self) -> bool:
        """Whether all runs have an artifact with the same key."""
        return len(set(self.keys)) == 1

    def cell(self, number: int) -> str:
        """Return the name of a run's artifact, or why there is no artifact."""
        artifact = self.artifacts[number]
        if artifact is not None:
            return artifact.name
        return "gone" if self.keys[number] else "not made"


_COSTS = ("bits_per_byte", "perplexity")
_OVERLAPS = ("bleu", "sentence_bleu", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum")
_PAIRED = re.compile(rf"(?:(.+)_)??({'|'.join((*_COSTS, *_OVERLAPS))})")
"""A metric that can be paired by test document, behind the variant that the manifest's metrics name."""
_SEED = 1  # of the resamples; the same for every comparison


@dataclass(frozen=True)
class Paired:
    """The difference of a run to the base in bits per byte, BLEU or ROUGE, paired by test document.

    Both are None if the two have no test documents in common, `interval` also for a single document.
    """

    difference: float | None = None
    interval: Interval | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant."""
        return self.interval is not None and self.interval.is_significant

    def as_json(self) -> dict[str, Any]:
        """Return the values; the numbers are None without an interval."""
        low, high, units = (self.interval.low, self.interval.high, self.interval.units) if self.interval else [None] * 3
        return {"significant": self.is_significant, "low": low, "high": high, "documents": units}


@dataclass(frozen=True)
class Row:
    """One metric in each run; None if a run lacks it. `variant` names the weights in the evaluation's table."""

    stage: str
    variant: str | None
    metric: str
    values: list[Metric | None]
    paired: "list[Paired] | None" = None
    """The significance of each difference to the base, for the metrics of test text that documents have."""

    @property
    def differences(self) -> list[float | None]:
        """The differences to the base; None unless both are numbers."""
        return [self._difference(value) for value in self.values[1:]]

    @property
    def percent(self) -> list[float | None]:
        """The differences as percentages of the base; None if the base is 0 or either value is negative.

        A percentage of a metric with either sign, such as the loss that a variant adds, means nothing.
        """
        base = self.values[0]
        return [
            100 * by / base
            if by is not None and isinstance(base, int | float) and base > 0 and base + by >= 0
            else None
            for by in self.differences
        ]

    def _difference(self, value: Metric | None) -> float | None:
        base = self.values[0]
        if isinstance(value, int | float) and isinstance(base, int | float):
            by = value - base
            return by if math.isfinite(by) else None
        return None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; every list has one entry per run, in their order."""

    runs: list[Run]
    settings: dict[str, list[Any]]
    """Values of the settings that differ, by dotted name."""
    stages: list[Stage]
    rows: list[Row]
    """Every metric of every stage that any run reached."""
    curves: list[pa.Table | None]
    """The training steps (`step`, `loss`, `validation_loss`); None for a run without training, or if it is gone."""

    @property
    def gone(self) -> list[str]:
        """Artifacts deleted by garbage collection, so without metrics: one phrase per run and stage."""
        return [
            f"{stage.name} of {run.name}"
            for stage in self.stages
            for number, run in enumerate(self.runs)
            if stage.keys[number] and stage.artifacts[number] is None
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "runs": [
                {"name": run.name, "recipe": run.recipe, "started": run.started.isoformat(), "state": run.state}
                for run in self.runs
            ],
            "settings": self.settings,
            "stages": [
                {
                    "stage": stage.name,
                    "same": stage.same,
                    "why": stage.why,
                    "keys": stage.keys,
                    "artifacts": [one.name if one else None for one in stage.artifacts],
                }
                for stage in self.stages
            ],
            "metrics": [
                {
                    "stage": row.stage,
                    "variant": row.variant,
                    "metric": row.metric,
                    "values": [_finite(value) for value in row.values],
                    "differences": row.differences,
                    "percent": row.percent,
                    **({"paired": [one.as_json() for one in row.paired]} if row.paired else {}),
                }
                for row in self.rows
            ],
            "gone": self.gone,
        }


def compare(store: Store, records: dict[str, RunRecord], names: Sequence[str]) -> Comparison:
    """Compare the runs `names` of `records`; the first is the base."""
    chosen = [records[name] for name in names]
    settings = differing([run.recipe for run in chosen])
    every = store.all()
    reached = dict.fromkeys(stage for run in chosen for stage in run.keys)
    stages = [_stage(store, stage, chosen, every) for stage in reached]
    rows = [_paired(row, stage) for stage in stages for row in [*_metrics(stage), *_variants(stage)]]
    training = next((stage for stage in stages if stage.name == "pretrain"), None)
    return Comparison(
        runs=[
            Run(name, run.recipe["name"], run.started, runs.state(store, name, run), label)
            for name, run, label in zip(names, chosen, _labels(settings, len(names)), strict=True)
        ],
        settings=settings,
        stages=stages,
        rows=rows,
        curves=[_curve(one) for one in training.artifacts] if training else [None] * len(names),
    )


def _labels(settings: dict[str, list[Any]], count: int) -> list[str]:
    letters = [_letter(number) for number in range(count)]
    if len(settings) != 1:
        return letters
    [(name, values)] = settings.items()
    return [f"{letter} {name.split('.')[-1]}={value}" for letter, value in zip(letters, values, strict=True)]


def _letter(number: int) -> str:
    """Return A, B, … Z, AA, AB, …"""
    before, place = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + place)


def _stage(store: Store, name: str, chosen: list[RunRecord], every: list[Artifact]) -> Stage:
    keys = [run.keys.get(name) for run in chosen]
    artifacts = [runs.artifact_of(run, name, every) for run in chosen]
    why = dict.fromkeys(
        reason
        for key, artifact in zip(keys[1:], artifacts[1:], strict=True)
        if key != keys[0] and key and keys[0]
        for reason in _why(store, artifacts[0], artifact)
    )
    return Stage(name, keys, artifacts, list(why))


def _why(store: Store, base: Artifact | None, other: Artifact | None) -> list[str]:
    """Return the reasons for different keys of two artifacts."""
    if base is None or other is None:
        return ["unknown: gone"]
    found = []
    for reason in reasons_between(store, base.manifest, other.manifest):
        match reason.kind:
            case "setting":
                found.append(reason.name)
            case "raw":
                found.append("raw input")
            case "code":
                found.append("code")
            case "input":
                found.append(f"other {reason.name}")
    return list(dict.fromkeys(found))


def _metrics(stage: Stage) -> list[Row]:
    """Return the metrics of the manifests: rows, size, time, and the stage's own."""
    figures: list[dict[str, Metric]] = [
        {
            f"{one.manifest.unit} in": one.manifest.rows_in,
            f"{one.manifest.unit} out": one.manifest.rows_out,
            "bytes": one.manifest.bytes,
            "seconds to make": one.manifest.seconds,
            **one.manifest.metrics,
        }
        if one
        else {}
        for one in stage.artifacts
    ]
    return _rows(stage.name, None, figures)


def _variants(stage: Stage) -> list[Row]:
    """Return each metric of each variant of the weights from the evaluation; nothing for other stages."""
    if stage.name != "evaluate":
        return []
    tables = [_results(one) if one else {} for one in stage.artifacts]
    variants = dict.fromkeys(variant for table in tables for variant in table)
    return [
        row for variant in variants for row in _rows(stage.name, variant, [table.get(variant, {}) for table in tables])
    ]


def _paired(row: Row, stage: Stage) -> Row:
    """Return the row with the significance of its differences, if it is a metric of single test documents."""
    metric = _PAIRED.fullmatch(row.metric)
    if stage.name != "evaluate" or metric is None:
        return row
    variant, name = row.variant or metric[1] or ORIGINAL, metric[2]
    pair = _paired_costs if name in _COSTS else _paired_overlaps
    base, *others = stage.artifacts
    return replace(row, paired=[pair(base, other, variant, name) if base and other else Paired() for other in others])


def _paired_costs(base: Artifact, other: Artifact, variant: str, metric: str) -> Paired:
    """Pair the costs of predicting test documents."""
    ours, theirs = (TestDocuments.read(one.path, variant) for one in (base, other))
    above = theirs.above(ours) if ours and theirs else None
    if ours and theirs and metric == "perplexity" and not np.array_equal(theirs.costs.tokens, ours.costs.tokens):
        above = None  # of another tokenizer, so not comparable
    return Paired(*above) if above else Paired()


def _paired_overlaps(base: Artifact, other: Artifact, variant: str, metric: str) -> Paired:
    """Pair the scores of completions, if both have the same prompts and references."""
    ours, theirs = (_completions(one, variant) for one in (base, other))
    if not ours or [one[:3] for one in ours] != [one[:3] for one in theirs]:
        return Paired()
    if metric == "bleu":
        counts = [
            np.array([bleu_counts(reference, text) for _, _, reference, text, _ in rows], dtype=np.float64)
            for rows in (ours, theirs)
        ]
        width = counts[0].shape[1]

        def above(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return bleu_of_counts(sums[:, width:]) - bleu_of_counts(sums[:, :width])

        columns = np.concatenate(counts, axis=1)
        return Paired(float(above(columns.sum(axis=0, keepdims=True))[0]), interval(columns, above, _SEED))
    column = metric.removeprefix("sentence_")
    values = np.array([two[4][column] - one[4][column] for one, two in zip(ours, theirs, strict=True)])
    return Paired(float(values.mean()), mean_interval(values, _SEED))


def _completions(evaluation: Artifact, variant: str) -> list[tuple[str, str, str, str, dict[str, float]]]:
    """Return id, prompt, reference, completion and scores of each completed document; none if it has none."""
    if not parquet_parts(evaluation.path / "continuations"):
        return []
    return [
        (row["id"], row["prompt"], row["reference"], row["continuation"], row)
        for row in read_parquet(evaluation.path / "continuations").to_pylist()
        if row["variant"] == variant
    ]


def _results(artifact: Artifact) -> dict[str, dict[str, Metric]]:
    rows = pq.read_table(parquet_parts(artifact.path / "results")).to_pylist()
    return {row.pop("variant"): row for row in rows}


def _rows(stage: str, variant: str | None, figures: list[dict[str, Metric]]) -> list[Row]:
    names = dict.fromkeys(name for one in figures for name in one)
    return [Row(stage, variant, name, [one.get(name) for one in figures]) for name in names]


def _curve(artifact: Artifact | None) -> pa.Table | None:
    file = artifact.path / METRICS if artifact else None
    if file is None or not file.is_file():
        return None
    return pq.read_table(file, columns=["step", "loss", "validation_loss"])


def _finite(value: Metric | None) -> Metric | None:
    """Return the value, or None if it is not finite, which JSON cannot express."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
