"""The evaluation before this one of the same recipe, and whether what changed since is more than chance.

Part of no artifact: what came before does not shape an evaluation, so it must not enter its key.
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

_SEED = 1  # of the resamples; the same documents are drawn whenever two evaluations are compared


def find_previous(store: Store, artifact: Artifact) -> Artifact | None:
    """Return the evaluation that the last run of the same recipe before `artifact` was made had; None if there is none.

    The recipe is that of the newest run which has, or is just making, `artifact`.
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
    """Return an evaluation with the row of the one before it after those of its own weights, and sentences about it."""
    report, previous = Report.read(artifact.path), find_previous(store, artifact)
    if previous is None:
        return report, []
    found = next(row for row in read_parquet(previous.path / "results").to_pylist() if row["variant"] == ORIGINAL)
    known = {field.name for field in fields(Result)} - {"variant", "kind"}
    measured = {name: value for name, value in found.items() if name in known}
    row = Result(variant=f"{previous.name} (before)", kind="previous", **measured)
    row, news = _compared(row, previous.name, artifact.path, previous.path)
    weights = [one for one in report.results if one.kind == "weights"]
    others = [one for one in report.results if one.kind != "weights"]
    return replace(report, results=[*weights, row, *others]), [news]


def _compared(row: Result, name: str, now: Path, before: Path) -> tuple[Result, str]:
    """Return the previous evaluation's row with its difference from this one, and what that means."""
    costs, earlier = _costs(now), _costs(before) if parquet_parts(before / "documents") else None
    if earlier is None:
        return row, f"{name}, the version before, did not keep what each document cost: the two cannot be compared."
    if costs[0] != earlier[0] or not np.array_equal(costs[1].bytes, earlier[1].bytes):
        return row, f"{name}, the version before, was measured on another test split: the two cannot be compared."
    difference, interval = earlier[1].above(costs[1], _SEED)
    row = replace(row, difference=difference, difference_low=interval.low, difference_high=interval.high)
    how = "fewer" if difference > 0 else "more"
    meaning = "significant" if interval.excludes_zero else "no more than chance would explain"
    return row, (
        f"The original weights need {abs(difference):.4f} bits per byte {how} than those of {name}, the version before "
        f"(95%: {-interval.high:+.4f} to {-interval.low:+.4f}, paired by document): {meaning}."
    )


def _costs(folder: Path) -> tuple[list[str], Costs]:
    """Return the ids of the test documents, in order, and what they cost the original weights."""
    rows = sorted(
        (row["id"], row["nats"], row["tokens"], row["bytes"])
        for row in read_parquet(folder / "documents").to_pylist()
        if row["variant"] == ORIGINAL
    )
    ids, nats, tokens, sizes = zip(*rows, strict=True)
    return list(ids), Costs(np.array(nats), np.array(tokens), np.array(sizes))
