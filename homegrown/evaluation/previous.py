"""The previous evaluation of the same recipe, and whether the difference to it is significant.

Not part of an artifact: the previous evaluation does not shape the next one, so it must not enter its key.
"""

from dataclasses import fields, replace
from pathlib import Path

from homegrown.evaluation.costs import TestDocuments, in_words
from homegrown.evaluation.results import Report, Result
from homegrown.quantization.variants import ORIGINAL
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.util.files import read_parquet


def find_previous(store: Store, artifact: Artifact) -> Artifact | None:
    """Return the evaluation of the previous run of the same recipe; None for the first one.

    The recipe is that of the newest run that has `artifact`, finished or in progress.
    """
    records = list(runs.recorded(store).values())
    own = [run.recipe["name"] for run in records if artifact.manifest.key in run.needed]
    every = store.all()
    for run in reversed(records):
        if own and run.recipe["name"] == own[-1]:
            found = runs.artifact_of(run, artifact.manifest.stage, every)
            if found is not None and found.manifest.version < artifact.manifest.version:
                return found
    return None


def beside_previous(store: Store, artifact: Artifact) -> tuple[Report, list[str]]:
    """Return an evaluation with the row of the previous one after its own weights, and sentences about both."""
    report, previous = Report.read(artifact.path), find_previous(store, artifact)
    if previous is None:
        return report, []
    found = next(row for row in read_parquet(previous.path / "results").to_pylist() if row["variant"] == ORIGINAL)
    known = {field.name for field in fields(Result)} - {"variant", "kind"}
    measured = {name: value for name, value in found.items() if name in known}
    row = Result(variant=f"{previous.name} (previous)", kind="previous", **measured)
    row, news = _compared(row, previous.name, artifact.path, previous.path)
    own = [one for one in report.results if one.kind in ("weights", "base")]
    others = [one for one in report.results if one.kind not in ("weights", "base")]
    return replace(report, results=[*own, row, *others]), [news]


def _compared(row: Result, name: str, now: Path, before: Path) -> tuple[Result, str]:
    """Return the previous evaluation's row with its difference to this one, and a sentence about it."""
    own, earlier = TestDocuments.read(now, ORIGINAL), TestDocuments.read(before, ORIGINAL)
    if own is None or earlier is None:
        return row, f"{name}, the previous version, has no costs per document, so the two cannot be compared."
    paired = earlier.above(own)
    if paired is None:
        return row, f"{name}, the previous version, has another test split, so the two cannot be compared."
    difference, interval = paired
    above = interval.negated if interval else None
    row = replace(row, difference=difference)
    if interval:
        row = replace(row, difference_low=interval.low, difference_high=interval.high)
    return row, in_words("The trained weights", f"{name}, the previous version", -difference, above)
