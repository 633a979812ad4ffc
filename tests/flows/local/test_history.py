"""Old runs of a store go from a real Prefect server, those of other folders stay."""

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from prefect import flow, get_client
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from flows.local import server_database
from homegrown.cli.main import cli
from homegrown.store import runs
from homegrown.store.artifacts import Store
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@flow(flow_run_name="{name}", persist_result=False)
def works(name: str, store: Store | None) -> str:
    get_run_logger().info("works")
    if store:
        with runs.ongoing(store, name, {"name": "tiny"}):
            pass
    return str(flow_run.id)


def age(store: Store, ids: list[str], days: int) -> None:
    """Put runs, in the server's database and in the store's records, into the past."""
    shift = timedelta(days=days)
    with closing(sqlite3.connect(get_current_settings().home / "prefect.db", timeout=60)) as database, database:
        for one in ids:
            times = database.execute("SELECT start_time, end_time FROM flow_run WHERE id = ?", [one]).fetchone()
            past = [str(datetime.fromisoformat(time) - shift) for time in times]
            database.execute("UPDATE flow_run SET start_time = ?, end_time = ? WHERE id = ?", [*past, one])
    for name, record in runs.recorded(store).items():
        runs.record(store, name, record.model_copy(update={"started": record.started - shift}))


def there(ids: list[str]) -> set[str]:
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": ids}}))
    return {str(run.id) for run in found}


def logs(run: str) -> int:
    with get_client(sync_client=True) as client:
        return len(client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [run]}})))


def test_old_runs_of_the_store_go_and_those_of_others_stay(in_prefect: Store, tmp_path: Path) -> None:
    def gc(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["--artifacts", str(in_prefect.root), "gc", *arguments]).output

    old = works("named", in_prefect)
    wait_for(lambda: logs(old))
    age(in_prefect, [old], days=40)
    other, new = works("named", None), works("new", in_prefect)
    age(Store(tmp_path / "elsewhere"), [other], days=60)
    ids = [old, other, new]
    assert "has no runs of this store older than 50 days" in gc("--keep-days", "50")
    shown = gc("--keep-days", "30")
    assert "1 run of the Prefect server would be deleted" in shown
    assert there(ids) == {*ids}
    assert "Deleted 1 run from the Prefect server" in gc("--keep-days", "30", "--yes")
    assert there(ids) == {other, new}
    wait_for(lambda: logs(old) == 0)
    assert set(runs.recorded(in_prefect)) == {"named", "new"}
    assert "has no runs of this store" in gc("--keep-days", "30")


def test_a_database_that_is_mostly_unused_is_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prefect.db"
    monkeypatch.setattr(server_database, "file", lambda: file)
    assert server_database.compact() is None
    assert not file.exists()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE log (text BLOB)")
        database.executemany("INSERT INTO log VALUES (zeroblob(1000000))", [() for _ in range(80)])
    assert server_database.compact() is None
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM log WHERE rowid > 10")
        assert server_database.compact() is None  # in use
    before = file.stat().st_size
    assert server_database.compact() == (before, file.stat().st_size)
    assert file.stat().st_size < before / 4
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM log").fetchone() == (10,)
