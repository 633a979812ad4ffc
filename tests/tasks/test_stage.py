"""Stages as Prefect tasks on a real server: what is cached, forced, remade, and what failure leaves behind."""

import logging
from collections import Counter
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter

from homegrown.config.compute import ComputeSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.settings import Settings
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tasks.pretrain import pretrain
from tasks.stage import Handle, Run, Work, forget_flow_exception, stage
from tasks.ui.events import Event, listening
from tests.waiting import ended_tasks

pytestmark = pytest.mark.slow


class Number(Settings):
    value: int = 1
    fails: str = ""


made: Counter[str] = Counter()


@stage("first", engine=["homegrown.util.seeds"])
def first(work: Work, settings: Number) -> Outcome:
    """Write a number."""
    made["first"] += 1
    work.progress(1, 2, loss=0.5)
    if work.forced:
        work.note(f"{work.order.stage} runs again.")
    if settings.fails == "user":
        raise UserError("The number is wrong.")
    if settings.fails == "once" and made["first"] == 1:
        raise OSError(5, "a passing fault")
    (work.out / "number").write_text(str(settings.value))
    return Outcome(1, 1)


@stage("second", engine=["homegrown.util.seeds"], seeded=True)
def second(work: Work, settings: Number, first: Handle) -> Outcome:
    """Multiply."""
    made["second"] += 1
    (work.out / "number").write_text(str(int((first.path / "number").read_text()) * settings.value))
    return Outcome(1, 1)


@flow(name="chain", persist_result=False, on_failure=[forget_flow_exception])
def chain(value: int = 1, factor: int = 1, seed: int = 1, force: tuple[str, ...] = (), fails: str = "") -> Handle:
    run = Run(seed, ComputeSettings(), frozenset(force))
    one = first(run, settings=Number(value=value, fails=fails))
    return second(run, settings=Number(value=factor), first=one)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        (["keep_checkpoints=3", "checkpoint_every=7", "sample_every=9", "sample_prompts=[a]", "sample_tokens=5"], True),
        (["validate_every=7"], True),
        (["validate_every=7", "patience=3"], False),
        (["patience=3"], False),
        (["batch_size=16"], False),
    ],
)
def test_settings_that_change_no_weights_leave_the_key(
    changes: list[str], same: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.stage.store", lambda: store)
    orders = [
        pretrain.order(
            Run(recipe.seed, recipe.compute),
            settings=recipe.training,
            model=recipe.new_model,
            pack=Handle(stage="pack", folder="1-a", key="a"),
            tokenizer=Handle(stage="tokenizer", folder="1-b", key="b"),
        )
        for recipe in (load_recipe("tiny"), load_recipe("tiny", [f"training.{change}" for change in changes]))
    ]
    assert (orders[0].key == orders[1].key) == same
    assert orders[0].settings != orders[1].settings


@pytest.fixture(autouse=True)
def count() -> None:
    made.clear()


def run_chain(**parameters: Any) -> dict[str, str]:
    state = chain(**parameters, return_state=True)
    assert state.is_completed(), state.message
    return ended_tasks(state.state_details.flow_run_id, 2)


def test_what_runs_and_what_is_cached(in_prefect: Store) -> None:
    assert run_chain(value=3, factor=2) == {"first": "Completed", "second": "Completed"}
    assert run_chain(value=3, factor=2) == {"first": "Cached", "second": "Cached"}
    assert run_chain(value=3, factor=5) == {"first": "Cached", "second": "Completed"}
    assert run_chain(value=3, factor=5, seed=2) == {"first": "Cached", "second": "Completed"}
    assert run_chain(value=3, factor=2, force=("first",)) == {"first": "Completed", "second": "Cached"}
    assert made == {"first": 2, "second": 3}


def test_a_deleted_or_damaged_artifact_is_made_again_and_nothing_else(in_prefect: Store) -> None:
    run_chain()
    in_prefect.delete(in_prefect.resolve("first").path)
    assert run_chain() == {"first": "Completed", "second": "Cached"}
    (in_prefect.resolve("second").path / "number").write_text("many")
    assert run_chain() == {"first": "Cached", "second": "Completed"}
    assert made == {"first": 2, "second": 2}


def test_published_without_prefects_record_is_not_made_again(in_prefect: Store) -> None:
    """As after a kill between the rename and Prefect's own writing."""
    run_chain()
    (in_prefect.resolve("first").path / "prefect.json").unlink()
    run_chain()
    assert made == {"first": 1, "second": 1}
    assert run_chain() == {"first": "Cached", "second": "Cached"}


def test_a_stage_may_say_something(in_prefect: Store) -> None:
    events: list[Event] = []
    with listening(events.append):
        run_chain()
        run_chain(force=("first",))
    notes = [(event.stage, event.message) for event in events if event.kind == "note"]
    assert notes == [("first", "first runs again.")]


def test_a_users_mistake_is_one_sentence_without_retry_traceback_or_leftover(
    in_prefect: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(UserError, match="The number is wrong"):
        chain(fails="user")
    assert "Traceback" not in caplog.text
    assert made == {"first": 1}
    assert [path.name for path in in_prefect.root.iterdir() if path.is_file()] == []
    assert in_prefect.all() == []


def test_a_passing_fault_is_tried_again(in_prefect: Store) -> None:
    assert run_chain(fails="once") == {"first": "Completed", "second": "Completed"}
    assert made == {"first": 2, "second": 1}


def test_a_person_is_told_in_the_terminal_and_in_the_ui(in_prefect: Store) -> None:
    events: list[Event] = []
    with listening(events.append):
        run_chain(value=7)
        run_chain(value=7)
    assert [(event.stage, event.kind) for event in events] == [
        ("first", "started"),
        ("first", "progress"),
        ("first", "made"),
        ("second", "started"),
        ("second", "made"),
        ("first", "cached"),
        ("second", "cached"),
    ]
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": ["first-report"]}))
    # Other tests' runs are on this server too; the page names the folder of this one's store.
    ours = next(one for one in artifacts if str(in_prefect.root) in str(one.data))
    assert "| out | 1 document |" in str(ours.data)
