"""The summary of a run: while stages run, after a failure, and on a real server; no stage waits for it."""

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

from homegrown.config.compute import ComputeSettings
from homegrown.config.settings import Settings
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Run, Work, stage
from tasks.ui import summary as module
from tasks.ui.events import Event, emit, listening
from tasks.ui.outbox import Outbox, post
from tasks.ui.panels import Panel
from tasks.ui.reporting import Reporter
from tasks.ui.summary import Summary, summarized


@pytest.fixture
def summary() -> Iterator[Summary]:
    summary = Summary("tiny-1", uuid4(), ["ingest", "pretrain", "evaluate"])
    token = module._current.set(summary)
    yield summary
    module._current.reset(token)


def test_a_running_stage_has_its_time_left(summary: Summary) -> None:
    assert "| pretrain |  |" in summary.markdown()
    summary(Event("pretrain", "started"))
    summary(Event("pretrain", "progress", 30, 120, {"loss": 4.5, "seconds_left": 200.0}))
    markdown = summary.markdown()
    assert "pretrain is running: 30 of 120 · loss 4.5 · 3 min 20 s left" in markdown
    assert "| pretrain | running, 25% |" in markdown


def test_a_note_stays_beside_the_table(summary: Summary) -> None:
    summary(Event("pretrain", "started"))
    summary(Event("pretrain", "note", message="pretrain@1 is not extended."))
    summary(Event("pretrain", "made"))
    assert "| pretrain | made |" in summary.markdown()
    assert "pretrain: ` pretrain@1 is not extended. `" in summary.markdown()


def test_a_failure_has_its_reason(summary: Summary) -> None:
    summary(Event("ingest", "started"))
    summary(Event("ingest", "failed"))
    summary.finish(UserError("data/nowhere is not there."))
    assert re.search(r"Stopped after [\d.]+ m?s in ingest: ` data/nowhere is not there\. `", summary.markdown())
    assert "| ingest | failed |" in summary.markdown()


def test_a_stage_that_a_signal_stopped_has_not_failed(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reporter, "_post_all", lambda self: None)
    summary(Event("ingest", "started"))
    with pytest.raises(KeyboardInterrupt), listening(summary), Reporter("ingest"):
        raise KeyboardInterrupt
    summary.finish(KeyboardInterrupt())
    assert "| ingest | stopped |" in summary.markdown()
    assert re.search(r"Stopped after [\d.]+ m?s in ingest\.", summary.markdown())


def test_another_run_s_stages_are_ignored(summary: Summary) -> None:
    other = Summary("other", uuid4(), ["ingest"])
    other(Event("ingest", "started"))
    assert "running" not in other.markdown()


def test_an_unreachable_server_stops_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    away = temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"})
    with caplog.at_level(logging.WARNING, "tasks"), away, Outbox() as outbox:
        for number in range(3):
            outbox.put(functools.partial(post, key=f"away-{number}", markdown="text", description="", flow_run=None))
    assert len(caplog.records) == 1
    assert "A post to the Prefect UI failed" in caplog.text


class Number(Settings):
    value: int = 1


@stage(
    "counted", engine=["homegrown.util.seeds"], panel=Panel(lambda made: "The report.", lambda made: "### An excerpt")
)
def counted(work: Work, settings: Number) -> Outcome:
    """Write a number."""
    (work.out / "number").write_text(str(settings.value))
    return Outcome(4321, settings.value)


@flow(name="summarized", persist_result=False)
def watched(value: int, fails: bool = False) -> Handle:
    with summarized(["counted", "later"]):
        made = counted(Run(1, ComputeSettings()), settings=Number(value=value))
        if fails:
            emit(Event("later", "started"))
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
def test_a_summary_has_made_and_cached_stages(in_prefect: Store) -> None:
    for state in ("made", "cached"):
        page = posted(watched(1234, return_state=True))
        report, text = page["counted-report"], str(page["summary"].data)
        assert page["summary"].task_run_id is None
        assert report.task_run_id is not None
        names = f"| [counted](/runs/task-run/{report.task_run_id}) | {state} "
        assert f"{names}| [counted@1](/artifacts/artifact/{report.id}) | 4,321 | 1,234 | documents |" in text
        assert "### An excerpt" in text
        assert str(in_prefect.resolve("counted").path) in text.replace("\n", "")
        assert "The report." in report.data
        assert f"/artifacts/artifact/{page['summary'].id}" in report.data
        assert "Finished in" in text


@pytest.mark.slow
def test_the_summary_of_a_failed_run_has_stage_and_reason(in_prefect: Store) -> None:
    text = str(posted(watched(1, fails=True, return_state=True))["summary"].data)
    assert re.search(r"Stopped after [\d.]+ m?s in later: ` Something is wrong\. `", text)
    assert "| made |" in text
