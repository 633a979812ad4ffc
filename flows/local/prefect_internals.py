"""Everything of Prefect that this project uses and that has no public interface.

Each part names the public interface that would replace it. `tests/flows/local/test_prefect_internals.py` checks all of
them against the installed Prefect.
"""

import json
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

# Waits for: a state name or a field that tells a task run that a signal ended from one that broke down.
ABORTED = "Execution was aborted by"
"""The start of the message of a task run that a signal ended."""


class FileModels(NamedTuple):
    """The pydantic models of a deployment file."""

    file: type[BaseModel]
    deployment: type[BaseModel]
    work_pool: type[BaseModel]
    concurrency_limit: type[BaseModel]
    schedule: type[BaseModel]
    slas: tuple[type[BaseModel], ...]
    """Service level agreements."""
    step_keys: frozenset[str]
    """Arguments of every step of `build`, `push` and `pull`, besides those of its function."""


def file_models() -> FileModels:
    """Return the models by which `prefect deploy` reads a file; Prefect ignores all keys that they do not have.

    Waits for: a public model or JSON schema of `prefect.yaml`, or an option of `prefect deploy` that refuses unknown
    keys; and for service level agreements outside `prefect._experimental`.
    """
    from prefect._experimental.sla.objects import SlaTypes
    from prefect.cli.deploy import _models as models
    from prefect.deployments.steps.core import RESERVED_KEYWORDS

    return FileModels(
        file=models.PrefectYamlModel,
        deployment=models.DeploymentConfig,
        work_pool=models.WorkPoolConfig,
        concurrency_limit=models.ConcurrencyLimitSpec,
        schedule=models.RawScheduleConfig,
        slas=get_args(SlaTypes),
        step_keys=frozenset(RESERVED_KEYWORDS),
    )


def is_random_name(name: str) -> bool:
    """Return whether a run's name is one that Prefect makes up (`fierce-impala`), not one that a person gave.

    Waits for: a field of a flow run, or of its parameters, that tells a given name from a random one.
    """
    from coolname.data import config

    parts_of_speech: dict[str, Any] = config
    words = {word for part in parts_of_speech.values() for word in part.get("words", ())}
    parts = name.split("-")
    return len(parts) == 2 and words.issuperset(parts)


LOST_EVENT = timedelta(seconds=30)
"""How long the server waits for an event that others follow."""


def forget_lost_events() -> None:
    """Make automations of the server wait `LOST_EVENT`, not 15 minutes, for an event that does not come.

    A state change follows the previous one of its run. A server that was restarted between the two, or whose disk was
    full, has not seen the first, and starts a killed run again that much later.

    Waits for: a server setting of this time, or a server that knows the events that its predecessor has seen.
    """
    from prefect.server.events.ordering import memory

    memory.PRECEDING_EVENT_LOOKBACK = LOST_EVENT  # type: ignore[attr-defined]  # imported there


def write_in_turn() -> None:
    """Make the server take SQLite's lock for writing at the start of a transaction, so that requests wait for it.

    A transaction that reads first and then writes fails at once, whatever its time-out, when another wrote meanwhile
    (SQLITE_BUSY_SNAPSHOT). The server answers 503, and with four or more runs at once a worker's repeated requests fail
    too: it marks the run as Crashed. PostgreSQL does not need this.

    Waits for: a server setting of the transaction mode, or transactions that Prefect begins with `IMMEDIATE`.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(
        self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[assignment, method-assign]


def use_packaged_views() -> None:
    """Make the server read its lists of blocks, flows and worker types from Prefect's package, not from GitHub.

    Waits for: a server setting that turns the download off.
    """
    from prefect.server.api import collections

    folder = Path(collections.__file__).parent / "collections_data" / "views"
    packaged: dict[str, dict[str, Any]] = {
        view: json.loads(file.read_text())
        for view in collections.KNOWN_VIEWS
        if (file := folder / f"{view}.json").is_file()
    }
    collections.KNOWN_VIEWS = {view: address for view, address in collections.KNOWN_VIEWS.items() if view in packaged}
    collections.GLOBAL_COLLECTIONS_VIEW_CACHE = packaged  # type: ignore[assignment]  # a cache without expiry
