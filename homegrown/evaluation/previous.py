"""The previous evaluation of the same recipe, and whether the difference to it is significant.

Not part of an artifact: the previous evaluation does not shape the next one, so it must not enter its key.
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from homegrown.evaluation.costs import Costs
from homegrown.evaluation.results import Report, Result
from homegrown.quantization.variants import ORIGINAL
from homegrown.store import runs
from homegrown.store.artifacts import Artifact, Store
from homegrown.util.files import parquet_parts, read_parquet

_SEED = 1  # of the resamples; the same for every comparison


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
    weights = [one for one in report.results if one.kind == "weights"]
    others = [one for one in report.results if one.kind != "weights"]
    return replace(report, results=[*weights, row, *others]), [news]


def _compared(row: Result, name: str, now: Path, before: Path) -> tuple[Result, str]:
    """Return the previous evaluation's row with its difference to this one, and a sentence about it."""
    costs, earlier = _costs(now), _costs(before) if parquet_parts(before / "documents") else None
    if earlier is None:
        return row, f"{name}, the previous version, has no costs per document, so the two cannot be compared."
    if costs[0] != earlier[0] or not np.array_equal(costs[1].bytes, earlier[1].bytes):
        return row, f"{name}, the previous version, has another test split, so the two cannot be compared."
    difference, interval = earlier[1].above(costs[1], _SEED)
    how = "fewer" if difference > 0 else "more"
    sentence = f"The original weights need {abs(difference):.4f} bits per byte {how} than {name}, the previous version"
    if interval is None:
        return replace(row, difference=difference), f"{sentence} (1 document: no interval)."
    row = replace(row, difference=difference, difference_low=interval.low, difference_high=interval.high)
    meaning = "significant" if interval.excludes_zero else "not significant"
    paired = f"95%: {-interval.high:+.4f} to {-interval.low:+.4f}, paired by document"
    return row, f"{sentence} ({paired}): {meaning}."


def _costs(folder: Path) -> tuple[list[str], Costs]:
    """Return the ids of the test documents, in order, and their costs with the original weights."""
    rows = sorted(
        (row["id"], row["nats"], row["tokens"], row["bytes"])
        for row in read_parquet(folder / "documents").to_pylist()
        if row["variant"] == ORIGINAL
    )
    ids, nats, tokens, sizes = zip(*rows, strict=True)
    return list(ids), Costs(np.array(nats), np.array(tokens), np.array(sizes))
