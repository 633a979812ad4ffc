"""The story of a run: what it says while stages work, when one fails, and on a real server; nothing waits for it."""

import functools
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from homegrown.config.recipe import ComputeSettings, Settings
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Run, Work, stage
from tasks.ui import story
from tasks.ui.events import Event, listening, tell
from tasks.ui.outbox import Outbox, post
from tasks.ui.panels import Panel
from tasks.ui.reporting import Reporter
from tasks.ui.story import Story, told


@pytest.fixture
def tale() -> Iterator[Story]:
    tale = Story("tiny-1", uuid4(), ["ingest", "pretrain", "evaluate"])
    token = story._current.set(tale)
    yield tale
    story._current.reset(token)


def test_a_stage_at_work_is_told_with_the_time_that_is_left(tale: Story) -> None:
    assert "| pretrain |  |" in tale.markdown()
    tale(Event("pretrain", "started"))
    tale(Event("pretrain", "progress", 30, 120, {"loss": 4.5, "seconds_left": 200.0}))
    told_so_far = tale.markdown()
    assert "pretrain is at work: 30 of 120 · loss 4.5 · 3 min 20 s left" in told_so_far
    assert "| pretrain | working, 25% |" in told_so_far


def test_a_failure_is_told_with_its_reason(tale: Story) -> None:
    tale(Event("ingest", "started"))
    tale(Event("ingest", "failed"))
    tale.finish(UserError("data/nowhere is not there."))
    assert re.search(r"Stopped after [\d.]+ s in ingest: ` data/nowhere is not there\. `", tale.markdown())
    assert "| ingest | failed |" in tale.markdown()


def test_a_stage_that_a_signal_stopped_has_not_failed(tale: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reporter, "_post_all", lambda self: None)
    tale(Event("ingest", "started"))
    with pytest.raises(KeyboardInterrupt), listening(tale), Reporter("ingest"):
        raise KeyboardInterrupt
    tale.finish(KeyboardInterrupt())
    assert "| ingest | stopped |" in tale.markdown()
    assert re.search(r"Stopped after [\d.]+ s in ingest\.", tale.markdown())


def test_another_run_s_stages_are_not_told(tale: Story) -> None:
    other = Story("other", uuid4(), ["ingest"])
    other(Event("ingest", "started"))
    assert "working" not in other.markdown()


def test_a_server_that_is_away_stops_nothing_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    away = temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"})
    with caplog.at_level(logging.WARNING, "tasks"), away, Outbox() as outbox:
        for number in range(3):
            outbox.put(functools.partial(post, key=f"away-{number}", markdown="text", description="", flow_run=None))
    assert len(caplog.records) == 1
    assert "The UI does not show everything" in caplog.text


class Number(Settings):
    value: int = 1


@stage(
    "counted", engine=["homegrown.util.seeds"], panel=Panel(lambda made: "The report.", lambda made: "### An excerpt")
)
def counted(work: Work, settings: Number) -> Outcome:
    """Write a number."""
    (work.out / "number").write_text(str(settings.value))
    return Outcome(4321, settings.value)


@flow(name="told", persist_result=False)
def watched(value: int, fails: bool = False) -> Handle:
    with told(["counted", "later"]):
        made = counted(Run(1, ComputeSettings()), settings=Number(value=value))
        if fails:
            tell(Event("later", "started"))
            raise UserError("Something is wrong.")
        return made


def posted(state: Any) -> dict[str, Any]:
    """Return what is on the page of a flow run, by key."""
    run = FlowRunFilter(id={"any_": [state.state_details.flow_run_id]})
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(), flow_run_filter=run)
    assert len({one.key for one in found}) == len(found)
    return {str(one.key): one for one in found}


@pytest.mark.slow
def test_a_run_s_page_tells_what_was_made_and_what_was_there(in_prefect: Store) -> None:
    for state in ("made", "cached"):
        page = posted(watched(1234, return_state=True))
        report, whole = page["counted-report"], str(page["story"].data)
        assert page["story"].task_run_id is None
        assert report.task_run_id is not None
        names = f"| [counted](/runs/task-run/{report.task_run_id}) | {state} "
        assert f"{names}| [counted@1](/artifacts/artifact/{report.id}) | 4,321 | 1,234 | documents |" in whole
        assert "### An excerpt" in whole
        assert str(in_prefect.resolve("counted").path) in whole.replace("\n", "")
        assert "The report." in report.data
        assert f"/artifacts/artifact/{page['story'].id}" in report.data
        assert "Finished in" in whole


@pytest.mark.slow
def test_a_run_that_stops_says_where_and_why(in_prefect: Store) -> None:
    whole = str(posted(watched(1, fails=True, return_state=True))["story"].data)
    assert re.search(r"Stopped after [\d.]+ s in later: ` Something is wrong\. `", whole)
    assert "| made |" in whole
