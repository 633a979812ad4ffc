"""What the project uses of Prefect's private modules, checked against the installed Prefect."""

import ast
import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.exceptions import TerminationSignal
from prefect.states import exception_to_crashed_state
from prefect.utilities.names import generate_slug
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from flows.local import prefect_internals as internals

ADAPTER = Path(internals.__file__)


def private_modules(file: Path) -> set[str]:
    """Return the private modules of Prefect that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
    return {name for name in names if name.startswith("prefect.") and "._" in name}


def test_only_the_adapter_imports_private_modules() -> None:
    folders = [ADAPTER.parents[2] / name for name in ("homegrown", "tasks", "flows")]
    found = {file for folder in folders for file in folder.rglob("*.py") if private_modules(file)}
    assert found == {ADAPTER}


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("file", "prefect_version name build push pull deployments"),
        (
            "deployment",
            "name version version_type tags description schedule schedules paused concurrency_limit flow_name "
            "entrypoint parameters enforce_parameter_schema build push pull work_pool triggers sla",
        ),
        ("work_pool", "name work_queue_name job_variables"),
        ("concurrency_limit", "limit collision_strategy grace_period_seconds"),
        ("schedule", "cron interval rrule timezone anchor_date active parameters slug replaces day_or"),
    ],
)
def test_a_deployment_file_has_the_known_keys(model: str, keys: str) -> None:
    """A key that a new Prefect adds or drops needs a look at `flows/local/deployment_file.py`, which reads some."""
    assert set(getattr(internals.file_models(), model).model_fields) == set(keys.split())


def test_service_level_agreements_and_steps_have_the_known_keys() -> None:
    models = internals.file_models()
    keys = {key for model in models.slas for key in model.model_fields}
    assert keys == {"name", "severity", "enabled", "duration", "stale_after", "within"}
    assert models.step_keys == {"id", "requires"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TerminationSignal(signal.SIGTERM)])
def test_a_task_run_that_a_signal_ended_has_the_known_message(error: BaseException) -> None:
    state = asyncio.run(exception_to_crashed_state(error))
    assert str(state.message).startswith(internals.ABORTED)
    other = asyncio.run(exception_to_crashed_state(MemoryError()))
    assert not str(other.message).startswith(internals.ABORTED)


def test_the_server_reads_views_from_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.api import collections

    for name in ("KNOWN_VIEWS", "GLOBAL_COLLECTIONS_VIEW_CACHE"):
        monkeypatch.setattr(collections, name, getattr(collections, name))  # restored at the end
    internals.use_packaged_views()
    monkeypatch.setattr(httpx.AsyncClient, "get", None)  # no network
    workers = asyncio.run(collections.get_collection_view("aggregate-worker-metadata"))
    assert "process" in workers["prefect"]
    with pytest.raises(KeyError):
        asyncio.run(collections.get_collection_view("aggregate-block-metadata"))


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_transaction_that_reads_first_waits_for_another_that_writes(
    in_turn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the change, Prefect still fails at once: when it no longer does, the change is not needed."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", begin)  # restored at the end
    if in_turn:
        internals.write_in_turn()
    database = AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}")
    add = text("UPDATE counter SET value = value + 1")

    async def count() -> int:
        engine = await database.engine()
        async with await database.session(engine) as session, database.begin_transaction(session):
            await session.execute(text("CREATE TABLE counter AS SELECT 0 AS value"))
        read = asyncio.Event()

        async def slow() -> None:
            async with await database.session(engine) as session, database.begin_transaction(session):
                await session.execute(text("SELECT value FROM counter"))
                read.set()
                await asyncio.sleep(0.3)
                await session.execute(add)

        async def quick() -> None:
            await read.wait()
            async with await database.session(engine) as session, database.begin_transaction(session):
                await session.execute(add)

        await asyncio.gather(slow(), quick())
        async with await database.session(engine) as session:
            return int((await session.execute(text("SELECT value FROM counter"))).scalar_one())

    if in_turn:
        assert asyncio.run(count()) == 2
    else:
        with pytest.raises(OperationalError, match="database is locked"):
            asyncio.run(count())


def test_random_names_are_told_from_given_ones() -> None:
    assert all(internals.is_random_name(generate_slug(2)) for _ in range(200))
    for given in ("tiny-20261130-000034", "my best run", "tiny-2", "nightly", "second-try-again", "lm-eval"):
        assert not internals.is_random_name(given)


def test_an_event_waits_half_a_minute_for_one_that_the_server_never_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.events.ordering import memory
    from prefect.server.events.schemas.events import ReceivedEvent

    monkeypatch.setattr(memory, "PRECEDING_EVENT_LOOKBACK", memory.PRECEDING_EVENT_LOOKBACK)  # restored at the end
    internals.forget_lost_events()
    ordering = memory.CausalOrdering("test")
    now = datetime.now(UTC)
    waiting = {
        seconds: ReceivedEvent(
            occurred=now,
            event="prefect.flow-run.Crashed",
            resource={"prefect.resource.id": "prefect.flow-run.1"},
            id=uuid4(),
            follows=uuid4(),
            received=now - timedelta(seconds=seconds),
        )
        for seconds in (10, 40)
    }

    async def lost() -> list[ReceivedEvent]:
        for event in waiting.values():
            await ordering.record_follower(event)
        return await ordering.get_lost_followers()

    assert asyncio.run(lost()) == [waiting[40]]
