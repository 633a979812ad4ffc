"""An evaluation joined with other results of the same model: the previous version, lm-eval tasks, ratings.

Not part of an artifact, because these can come later than the evaluation.
"""

from collections.abc import Mapping, Sequence

from homegrown.evaluation.evaluation_report import sections
from homegrown.evaluation.previous import beside_previous
from homegrown.evaluation.results import Result
from homegrown.quantization.variants import ORIGINAL
from homegrown.rating.items import HUMAN
from homegrown.rating.ratings import CRITERIA, all_answers
from homegrown.rating.summary import Mean, summarize
from homegrown.reporting.blocks import Cell, Group, Section
from homegrown.store.artifacts import RATINGS, Store
from homegrown.store.manifest import Artifact
from homegrown.util.files import parquet_parts, read_parquet

HARNESS = "lm-eval"
"""The stage with the results of lm-evaluation-harness."""


def everything(store: Store, artifact: Artifact) -> list[Section]:
    """Return the sections of an evaluation's report, with all other results of its models in the table."""
    report, news = beside_previous(store, artifact)
    found = (_tasks(store, artifact, report.results), _ratings(store, artifact, report.results))
    return sections(report, news, [group for group in found if group])


def _tasks(store: Store, artifact: Artifact, results: Sequence[Result]) -> Group | None:
    """Return the newest result of each lm-eval task, for the original weights and their base."""
    inputs = artifact.manifest.inputs
    variants = {inputs.get("base"): "base", inputs.get("pretrain"): ORIGINAL}
    found = dict[str, dict[str, Cell]]()
    for one in store.all():
        variant = variants.get(one.manifest.inputs.get("pretrain", "")) if one.manifest.stage == HARNESS else None
        if variant:
            for row in read_parquet(one.path / "results").to_pylist():
                error = row["standard_error"]
                note = "" if error is None else f"± {error:.4f}, {row['documents']} documents"
                found.setdefault(f"{row['task']} {row['metric']}", {})[variant] = Cell(f"{row['value']:.4f}", note)
    if not found:
        return None
    cells = [[of_task.get(row.variant, Cell("")) for of_task in found.values()] for row in results]
    return Group("lm-evaluation-harness (± standard error)", list(found), cells)


def _ratings(store: Store, artifact: Artifact, results: Sequence[Result]) -> Group | None:
    """Return the mean ratings of this evaluation's completions."""
    if not parquet_parts(store.root / RATINGS):
        return None
    means = summarize(all_answers(store.root / RATINGS)).means
    rows = [means.get(HUMAN if row.kind == "text" else f"{artifact.name}/{row.variant}", {}) for row in results]
    if not any(row for row, result in zip(rows, results, strict=True) if result.kind == "weights"):
        return None
    return Group("ratings by people, 1 to 5", list(CRITERIA), [[_cell(row, name) for name in CRITERIA] for row in rows])


def _cell(means: Mapping[str, Mean], criterion: str) -> Cell:
    mean = means.get(criterion)
    if mean is None:
        return Cell("")
    return Cell(f"{mean.mean:.2f}", f"{mean.low:.2f} to {mean.high:.2f}" if mean.low == mean.low else "")
