"""Runs as people name them."""

from datetime import UTC, datetime, timedelta

import pytest

from homegrown.store.run_names import find_run, find_runs
from homegrown.store.runs import RunRecord
from homegrown.util.errors import UserError

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def records(**recipes: str) -> dict[str, RunRecord]:
    """Return runs by name, each with a recipe and, after a slash, a sweep."""
    found = {}
    for number, (name, recipe) in enumerate(recipes.items()):
        of, _, sweep = recipe.partition("/")
        started = BEGAN + timedelta(hours=number)
        found[name] = RunRecord(recipe={"name": of}, started=started, sweep=sweep or None)
    return found


RUNS = records(tiny_1="tiny", small_1="small", tiny_rate_2="tiny/rates", tiny_rate_3="tiny/rates", tinier_1="tinier")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("small_1", "small_1"),
        ("sm", "small_1"),
        ("latest", "tinier_1"),
        ("@-1", "tinier_1"),
        ("@-5", "tiny_1"),
        ("tiny@-1", "tiny_rate_3"),  # the recipe, not all names that begin so
        ("tiny@-3", "tiny_1"),
        ("tiny_rate@-2", "tiny_rate_2"),
    ],
)
def test_a_run_is_found(wanted: str, name: str) -> None:
    assert find_run(RUNS, wanted) == name


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("tiny_rate", r"is the start of 2 runs: tiny_rate_3, tiny_rate_2; give more of the name, or tiny_rate@-1"),
        ("smal_1", r"There is no run 'smal_1'; similar names: small_1\."),
        ("rate_3", r"similar names: tiny_rate_3\."),
        ("zzz", r"the runs are: tinier_1, tiny_rate_3, tiny_rate_2, small_1, tiny_1\."),
        ("tiny@-4", r"is out of range; tiny@-1 to tiny@-3 exist"),
        ("tiny@-0", r"is out of range"),
        ("small@-2", r"out of range; small@-1 to small@-1"),
        ("", r"There is no run ''"),
        ("finetune@1", r"a version of an artifact, not a run"),
        ("huge@-1", r"There is no run of 'huge'"),
    ],
)
def test_what_is_no_run_or_several_is_one_sentence(wanted: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_run(RUNS, wanted)


def test_without_runs_it_says_how_to_begin_one() -> None:
    with pytest.raises(UserError, match="homegrown run tiny"):
        find_run({}, "latest")


def test_the_name_of_a_sweep_means_all_its_runs_and_each_comes_once() -> None:
    assert find_runs(RUNS, ["tiny_1", "rates", "tiny@-1"]) == ["tiny_1", "tiny_rate_2", "tiny_rate_3"]


def test_the_latest_run_is_one_that_trains() -> None:
    beside = RunRecord(recipe={"name": "export-gguf"}, started=BEGAN + timedelta(days=2))
    trains = RunRecord(recipe={"name": "tiny", "training": {}}, started=BEGAN + timedelta(days=1))
    assert find_run({"tiny_1": trains, "export_1": beside}, "latest") == "tiny_1"
    assert find_run({"tiny_1": trains, "export_1": beside}, "@-1") == "export_1"
