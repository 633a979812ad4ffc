"""Runs again from one stage on, and sweeps: on a real server, and by the command line, killed and failing."""

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.pretrain import CHAIN, planned, pretrain, run_name
from homegrown.cli.main import cli
from homegrown.cli.sweep import plan_sweep, run_sweep
from homegrown.config.corpus import DedupSettings, IngestSettings
from homegrown.config.filter import FilterSettings
from homegrown.store import garbage, runs
from homegrown.store.artifacts import Store
from homegrown.store.run_names import find_runs
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage
from tasks.ui.events import listening
from tests.flows.small import small_recipe, write_project
from tests.flows.warm import Command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def versions(store: Store) -> dict[str, int]:
    return {one.manifest.stage: one.manifest.version for one in store.all()}


@stage("ingest", engine=["homegrown.util.seeds"])
def ingest(work: Work, settings: IngestSettings) -> Outcome:
    """Make nothing, at once."""
    return Outcome(1, 1)


@stage("dedup", engine=["homegrown.util.seeds"])
def dedup(work: Work, settings: DedupSettings, ingest: Handle) -> Outcome:
    """Measure how far the threshold is from 1."""
    return Outcome(1, 1, metrics={"distance": 1 - settings.threshold})


@stage("filter", engine=["homegrown.util.seeds"])
def filter_documents(work: Work, settings: FilterSettings, dedup: Handle) -> Outcome:
    """Make nothing, at once."""
    return Outcome(1, 1)


@pytest.fixture
def quick_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put stages in the place of the first three that are as quick as Prefect allows."""
    (tmp_path / "text.txt").write_text("A path without text is refused before any stage.")
    monkeypatch.setitem(CHAIN, "ingest", lambda run, recipe, made: ingest(run, settings=recipe.ingest))
    monkeypatch.setitem(
        CHAIN, "dedup", lambda run, recipe, made: dedup(run, settings=recipe.dedup, ingest=made["ingest"])
    )
    monkeypatch.setitem(
        CHAIN, "filter", lambda run, recipe, made: filter_documents(run, settings=recipe.filter, dedup=made["dedup"])
    )


@pytest.mark.slow
def test_from_a_stage_on_everything_is_made_again(in_prefect: Store, quick_stages: None, tmp_path: Path) -> None:
    def run(**parameters: Any) -> dict[str, int]:
        pretrain(recipe=small_recipe(tmp_path), until="filter", **parameters)
        return versions(in_prefect)

    assert run() == {"ingest": 1, "dedup": 1, "filter": 1}
    assert run(from_stage="dedup") == {"ingest": 1, "dedup": 2, "filter": 2}
    assert run(from_stage="filter", force=["ingest"]) == {"ingest": 2, "dedup": 2, "filter": 3}
    assert run() == {"ingest": 2, "dedup": 2, "filter": 3}
    first, second, third, _ = runs.recorded(in_prefect).values()
    assert (first.keys, first.finished is not None) == (third.keys, True)
    assert [folder.split("-")[0] for folder in second.folders.values()] == ["1", "2", "2"]
    with pytest.raises(UserError, match=r"Stage 'pack' cannot run again: the run stops after 'filter'"):
        run(from_stage="pack")
    with pytest.raises(UserError, match=r"'shard' cannot run again"):
        run(force=["shard"])
    assert len(runs.recorded(in_prefect)) == 4


@pytest.mark.slow
def test_a_name_that_a_person_gave_a_run_stays(in_prefect: Store, quick_stages: None, tmp_path: Path) -> None:
    parameters = {"recipe": small_recipe(tmp_path), "until": "ingest"}
    with get_client(sync_client=True) as client:
        for name in ("my best/run", "tiny-2", None):
            run_flow(pretrain, flow_run=client.create_flow_run(pretrain, name=name, parameters=parameters))
        shown = [run.name for run in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=3)]
    recorded = list(runs.recorded(in_prefect))
    assert recorded[:2] == ["my best-run", "tiny-2"]
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", recorded[2])
    assert shown == [recorded[2], "tiny-2", "my best/run"]


@pytest.mark.slow
def test_why_a_stage_runs_is_said_before_it_does_in_a_dry_run_and_later(
    in_prefect: Store, quick_stages: None, tmp_path: Path
) -> None:
    def plan(*changes: str, **parameters: Any) -> dict[str, str]:
        recipe = small_recipe(tmp_path, *changes)
        return {one.stage: one.because for one in planned(recipe, "filter", None, parameters.get("force", []))}

    assert plan() == dict.fromkeys(("ingest", "dedup", "filter"), "never made")
    assert in_prefect.all() == []
    pretrain(recipe=small_recipe(tmp_path), until="filter")
    assert plan() == {"ingest": "", "dedup": "", "filter": ""}
    assert plan(force=["dedup"]) == {"ingest": "", "dedup": "forced", "filter": ""}
    expected = {"ingest": "", "dedup": "threshold 0.7 → 0.8", "filter": "other dedup"}
    assert plan("dedup.threshold=0.8") == expected
    assert [one.name for one in in_prefect.all()] == ["dedup@1", "filter@1", "ingest@1"]

    notes: list[str] = []
    with listening(lambda event: notes.append(f"{event.stage}: {event.message}") if event.kind == "note" else None):
        pretrain(recipe=small_recipe(tmp_path, "dedup.threshold=0.8"), until="filter")
    assert notes == [
        "dedup: runs again, because it differs from dedup@1: threshold 0.7 → 0.8.",
        "filter: runs again, because it differs from filter@1: other dedup.",
    ]
    done = CliRunner().invoke(cli, ["--artifacts", str(in_prefect.root), "why", "filter"])
    assert done.output == (
        "filter@2 differs from filter@1:\n  other dedup\ndedup@2 differs from dedup@1:\n  threshold 0.7 → 0.8\n"
    )
    (in_prefect.resolve("dedup@2").path / "manifest.json").unlink()
    assert plan("dedup.threshold=0.8")["dedup"] != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "dedup", "--from", "ingest"), "--only dedup runs one stage and excludes --from"),
        (("--only", "dedup", "--until", "shard"), "excludes --until"),
        (("--only", "dedup", "--force", "shard"), "excludes --force"),
        (("--only", ""), "Stage '' does not exist"),
        (("--from", ""), "Stage '' does not exist"),
        (("--from", "pack", "--until", "shard"), "'pack' cannot run again: the run stops after 'shard'"),
        (("--from", "packing"), "Stage 'packing' does not exist; the stages are: ingest, dedup"),
    ],
)
def test_contradictions_are_one_sentence_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    for name in ("PREFECT_RESULTS_LOCAL_STORAGE_PATH", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back
    done = CliRunner().invoke(cli, ["--artifacts", str(tmp_path / "artifacts"), "run", "tiny", *arguments])
    assert (done.exit_code, done.output.count("\n")) == (1, 1), done.output
    assert message in done.output
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training.max_step", ["3"]), "did you mean 'training.max_steps'"),
        (("training.learning_rate", ["0.1", "much"]), "valid number.*given: 'much'"),
        (("training.learning_rate", ["0.01", "1e-2"]), "0.01 and 1e-2 are the same value"),
        (("seed", ["1", "2"], ["seed=3"]), "seed is set by --set and swept"),
        (("name", ["a", "b"]), "name has no effect on the artifacts"),
    ],
)
def test_every_value_of_a_sweep_is_checked_before_anything_runs(arguments: tuple[Any, ...], message: str) -> None:
    setting, values, *changes = arguments
    with pytest.raises(UserError, match=message):
        plan_sweep("tiny", setting, values, changes[0] if changes else [])


def test_a_dry_sweep_lists_what_each_value_would_run(project: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        # Where Prefect's settings are already read, as by tests before this one, the command's variable comes too late.
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: project / "artifacts"}):
            done = CliRunner().invoke(cli, ["--artifacts", str(project / "artifacts"), "sweep", "tiny", *arguments])
        return done.exit_code, " ".join(done.output.split())

    code, printed = run("training.learning_rate", "0.01", "0.02", "--dry-run")
    assert code == 0, printed
    assert "0.01 ingest to evaluate 0.02 pretrain to evaluate ingest to pack" in printed
    assert "12 stages would run for 2 values; no earlier run has measured them." in printed
    code, printed = run("model.context", "64", "100000000", "--dry-run", "--until", "pretrain")
    assert (code, "model.context = 100000000 would fail: model.context is 100,000,000, but" in printed) == (1, True)
    assert "1 of 2 values of model.context would fail; change them." in printed
    code, printed = run("seed", "1", "2", "--dry-run", "--out", "page.html")
    assert (code, printed) == (1, "Error: --dry-run writes no report; leave --out out.")
    assert not Store(project / "artifacts").all()


@pytest.mark.slow
def test_each_value_is_a_run_of_its_own_and_what_they_share_is_made_once(
    in_prefect: Store,
    quick_stages: None,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("PREFECT_RESULTS_LOCAL_STORAGE_PATH", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
        monkeypatch.setenv(name, "")
    sweep = plan_sweep("tiny", "ingest.max_document_mb", ["20", "30"], ["dedup.threshold=0.8"])
    assert [point.recipe.ingest.max_document_mb for point in sweep.points] == [20, 30]
    assert {point.recipe.dedup.threshold for point in sweep.points} == {0.8}

    sweep = plan_sweep("tiny", "dedup.threshold", ["0.7", "0.8"], [])
    run_sweep(sweep, in_prefect, "dedup", project / "page.html")
    assert versions(in_prefect) == {"ingest": 1, "dedup": 2}
    assert "distance" in capsys.readouterr().out
    assert (project / "page.html").is_file()
    names = find_runs(runs.recorded(in_prefect), [sweep.name])
    assert [name.rsplit("-", 2)[0] for name in names] == ["tiny-threshold=0.7", "tiny-threshold=0.8"]
    with get_client(sync_client=True) as client:
        tagged = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags={"all_": [f"sweep:{sweep.name}"]}))
    assert sorted(run.name for run in tagged) == names
    assert {run.state_name for run in tagged} == {"Completed"}


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_kill_past_a_failing_value_and_beside_garbage_collection(
    prefect_server: str, project: Path
) -> None:
    environment = os.environ | {"PREFECT_API_URL": prefect_server, "COLUMNS": "200"}
    values = ("data", "nowhere", "data/topics.jsonl")
    command = ("sweep", "tiny", "ingest.sources.0.path", *values, "--until", "ingest")
    process = Command(project, environment, command)
    for line in process.stdout:
        if "(2 of 3)" in line:
            process.kill()
    process.communicate()

    store = Store(project / "artifacts")
    assert versions(store) == {"ingest": 1}
    process = Command(project, environment, command)
    while process.poll() is None:
        garbage.collect(store, 1, [])
        time.sleep(0.2)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "1 of 3 values of ingest.sources.0.path failed (nowhere)" in output
    assert "ingest: cached" in output
    assert versions(store) == {"ingest": 2}
    states = {name.rsplit("-", 2)[0]: runs.state(store, name, run) for name, run in runs.recorded(store).items()}
    # A wrong path is refused before a run starts.
    assert states == {"tiny-path=data": "finished", "tiny-path=data_topics.jsonl": "finished"}


def test_a_deployed_run_has_the_name_that_prefect_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.pretrain.flow_run", SimpleNamespace(name="fuzzy-otter"))
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", run_name("tiny"))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1")
    assert run_name("tiny") == "tiny-fuzzy-otter"
    monkeypatch.setattr("flows.pretrain.flow_run", SimpleNamespace(name="tiny-fuzzy-otter"))  # retried
    assert run_name("tiny") == "tiny-fuzzy-otter"
