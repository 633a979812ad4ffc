"""Runs as people name them."""

import difflib
import re
from collections.abc import Iterable, Mapping

from homegrown.store.runs import RunRecord
from homegrown.util.errors import UserError

LATEST = "latest"
_BACK = re.compile(r"(.*)@-(\d+)")
_VERSION = re.compile(r".+@\d+")
_SHOWN = 5


def find_run(records: Mapping[str, RunRecord], wanted: str) -> str:
    """Return the name of the run that a person means by `wanted`.

    A run's name; the start of one, if only one begins so; `latest`, which is no export or benchmark where there is
    a run that trains; or `tiny@-1`, the last run of the recipe `tiny` (or whose name begins with `tiny`), `tiny@-2` the
    one before it, and `@-2` the last but one of all.

    Raises:
        UserError: no run, or more than one, is meant; the sentence lists names that are near.
    """
    if not records:
        raise UserError("There are no runs yet: begin one, as in `homegrown run tiny`.")
    names = list(records)
    if wanted in records:
        return wanted
    if wanted == LATEST:
        trained = [name for name, run in records.items() if "training" in run.recipe]
        return (trained or names)[-1]
    if match := _BACK.fullmatch(wanted):
        return _counted_back(records, wanted, match[1], int(match[2]))
    beginning = [name for name in names if wanted and name.startswith(wanted)]
    if len(beginning) == 1:
        return beginning[0]
    if beginning:
        raise UserError(
            f"{wanted!r} is the start of {len(beginning)} runs: {_listed(reversed(beginning), len(beginning))}; "
            f"write more of the name, or {wanted}@-1 for the last of them."
        )
    if _VERSION.fullmatch(wanted):
        raise UserError(
            f"{wanted!r} is a version of an artifact, and a run is asked for; `homegrown artifacts` says which used it."
        )
    raise UserError(f"There is no run {wanted!r}; {_near(names, wanted)}")


def find_runs(records: Mapping[str, RunRecord], wanted: Iterable[str]) -> list[str]:
    """Return the runs that these names mean, each once; the name of a sweep means all its runs.

    Raises:
        UserError: as `find_run`.
    """
    found: list[str] = []
    for name in wanted:
        of_sweep = [run for run, record in records.items() if record.sweep == name]
        found += of_sweep or [find_run(records, name)]
    return list(dict.fromkeys(found))


def _counted_back(records: Mapping[str, RunRecord], wanted: str, prefix: str, back: int) -> str:
    """Return the run so many back, 1 the last, of a recipe, or else of the names that begin so."""
    chosen = [name for name, run in records.items() if run.recipe["name"] == prefix]
    chosen = chosen or [name for name in records if name.startswith(prefix)]
    if not chosen:
        raise UserError(f"There is no run of {prefix!r}; {_near(list(records), prefix)}")
    if not 1 <= back <= len(chosen):
        there = f"there are {len(chosen)} runs" if len(chosen) > 1 else "there is one run"
        raise UserError(f"{wanted!r} counts too far back: {there}, {prefix}@-1 is the last of them.")
    return chosen[-back]


def _near(names: list[str], wanted: str) -> str:
    near = [name for name in reversed(names) if wanted and wanted in name]
    near = near or difflib.get_close_matches(wanted, names, n=_SHOWN, cutoff=0.5)
    return f"near it are {_listed(near, len(near))}." if near else f"there are {_listed(reversed(names), len(names))}."


def _listed(names: Iterable[str], count: int) -> str:
    """Return the first few names in one line, and how many more there are."""
    shown = [name for name, _ in zip(names, range(_SHOWN), strict=False)]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return ", ".join(shown) + more
