"""Names by which people refer to runs."""

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
    """Return the name of the run that `wanted` means.

    `wanted` is the name of a run, a unique start of a name, `latest` (the last training run, or the last run of any
    kind), `tiny@-1` (the last run of the recipe `tiny`, or of a name that starts with `tiny`), `tiny@-2` (the previous
    one), or `@-2` (the last but one of all runs).

    Raises:
        UserError: no or several runs match; the message lists similar names.
    """
    if not records:
        raise UserError("There are no runs yet; start one, as in `homegrown run tiny`.")
    names = list(records)
    if wanted in records:
        return wanted
    if wanted == LATEST:
        trained = [name for name, run in records.items() if "training" in run.recipe]
        return (trained or names)[-1]
    if match := _BACK.fullmatch(wanted):
        return _counted_back(records, wanted, match[1], int(match[2]))
    matching = [name for name in names if wanted and name.startswith(wanted)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(
            f"{wanted!r} is the start of {len(matching)} runs: {_listed(reversed(matching), len(matching))}; "
            f"give more of the name, or {wanted}@-1 for the last one."
        )
    if _VERSION.fullmatch(wanted):
        raise UserError(
            f"{wanted!r} is a version of an artifact, not a run; `homegrown artifacts` lists the runs that used it."
        )
    raise UserError(f"There is no run {wanted!r}; {_near(names, wanted)}")


def find_runs(records: Mapping[str, RunRecord], wanted: Iterable[str]) -> list[str]:
    """Return the runs that the names mean, each once; the name of a sweep means all its runs.

    Raises:
        UserError: as for `find_run`.
    """
    found: list[str] = []
    for name in wanted:
        of_sweep = [run for run, record in records.items() if record.sweep == name]
        found += of_sweep or [find_run(records, name)]
    return list(dict.fromkeys(found))


def _counted_back(records: Mapping[str, RunRecord], wanted: str, prefix: str, back: int) -> str:
    """Return the run `back` from the end (1 is the last) of a recipe, or of the names with this start."""
    chosen = [name for name, run in records.items() if run.recipe["name"] == prefix]
    chosen = chosen or [name for name in records if name.startswith(prefix)]
    if not chosen:
        raise UserError(f"There is no run of {prefix!r}; {_near(list(records), prefix)}")
    if not 1 <= back <= len(chosen):
        raise UserError(f"{wanted!r} is out of range; {prefix}@-1 to {prefix}@-{len(chosen)} exist.")
    return chosen[-back]


def _near(names: list[str], wanted: str) -> str:
    near = [name for name in reversed(names) if wanted and wanted in name]
    near = near or difflib.get_close_matches(wanted, names, n=_SHOWN, cutoff=0.5)
    return (
        f"similar names: {_listed(near, len(near))}."
        if near
        else f"the runs are: {_listed(reversed(names), len(names))}."
    )


def _listed(names: Iterable[str], count: int) -> str:
    """Return the first names and the number of the others."""
    shown = [name for name, _ in zip(names, range(_SHOWN), strict=False)]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return ", ".join(shown) + more
