"""`@stage` turns a call of the engine into a cached Prefect task that makes a versioned artifact."""

import functools
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings
from prefect.transactions import IsolationLevel
from pydantic import BaseModel, ConfigDict

from homegrown.cluster import dask
from homegrown.config.compute import ComputeSettings
from homegrown.config.settings import Settings
from homegrown.store.artifacts import Store, partial_of
from homegrown.store.fingerprint import code_fingerprint
from homegrown.store.manifest import Artifact, Order
from homegrown.store.remote import Remote
from homegrown.util import parallel
from homegrown.util.progress import Outcome, Progress
from tasks.locks import StageLocks
from tasks.logs import quieten
from tasks.records import forget_foreign
from tasks.ui import panels, summary
from tasks.ui.events import Event, emit
from tasks.ui.figures import made_in_words
from tasks.ui.reporting import Reporter

RECORD = "prefect.json"
"""Prefect's record of the result; in the artifact's folder, and deleted with it."""


def store() -> Store:
    """Return the artifact store of this run: Prefect's folder of results, with the remote of the environment."""
    return Store(Path(get_current_settings().results.local_storage_path).expanduser(), Remote.of_environment())


class Handle(BaseModel):
    """A reference to an artifact: what stages pass to each other and what Prefect stores."""

    model_config = ConfigDict(frozen=True)
    stage: str
    folder: str
    key: str

    @property
    def name(self) -> str:
        """The artifact's name, `stage@version`."""
        return f"{self.stage}@{self.folder.split('-')[0]}"

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return store().root / self.stage / self.folder


@dataclass(frozen=True)
class Work:
    """What a stage gets besides its settings and inputs."""

    out: Path
    seed: int
    compute: ComputeSettings
    progress: Progress
    order: Order
    forced: bool
    """Whether the user asked to run the stage again."""
    note: Callable[[str], None]
    """Shows a message to whoever started the run."""
    inputs: list[Artifact]

    def executor(self) -> AbstractContextManager[Executor]:
        """Return the executor of the stage's shards: processes of this machine, or workers of a cluster."""
        if self.compute.executor == "dask":
            return dask.dask_workers(self.compute, store(), self.out, self.inputs)
        return self.processes()

    def processes(self) -> AbstractContextManager[Executor]:
        """Return an executor of this machine."""
        return parallel.process_pool(0 if self.compute.executor == "dask" else self.compute.workers)


@dataclass(frozen=True)
class Run:
    """What all stages of a run share; `seed` enters the keys of seeded stages, `compute` enters none."""

    seed: int
    compute: ComputeSettings
    force: frozenset[str] = frozenset()
    reach: Callable[[str], None] = lambda key: None
    """Called with the key of each artifact before its lookup."""
    why: Callable[[Order], str | None] = lambda order: None
    """Returns why an artifact has to be made although an earlier run has one."""
    plan: Callable[[Order], Handle] | None = None
    """Takes the place of looking up or making an artifact, in a dry run."""


class _SlotPolicy(CachePolicy):
    """The cache key of a task run is the path of the record in its slot, so the store decides what is cached."""

    def compute_key(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any) -> str:
        return f"{inputs['slot']}/{RECORD}"


def artifact_of(handle: Handle) -> Artifact:
    """Return the artifact of a handle; raise UserError if it was deleted."""
    return store().resolve(handle.name)


def handle_of(artifact: Artifact) -> Handle:
    """Return the handle of an artifact, as an input of a stage."""
    return Handle(stage=artifact.manifest.stage, folder=artifact.path.name, key=artifact.manifest.key)


class Stage:
    """A stage. A call in a flow returns the handle of its artifact, which is made or found."""

    def __init__(
        self,
        name: str,
        body: Callable[..., Outcome],
        engine: Sequence[str],
        seeded: bool,
        raw: Callable[[Any], dict[str, str]] | None,
        panel: panels.Panel | None,
        in_shards: bool,
    ) -> None:
        self.name = name
        self._body = body
        self.engine = engine
        self._in_shards = in_shards
        self._seeded = seeded
        self._raw = raw
        self._panel = panel

    def order(self, run: Run, **arguments: Settings | Handle) -> Order:
        """Return the order of the artifact of these arguments."""
        groups = {name: value for name, value in arguments.items() if isinstance(value, Settings)}
        settings: dict[str, Any] = {name: value.model_dump(mode="json") for name, value in groups.items()}
        if self._seeded:
            settings["seed"] = run.seed
        if self._raw:
            settings["raw"] = self._raw(arguments["settings"])
        inputs = {name: value.key for name, value in arguments.items() if isinstance(value, Handle)}
        code = code_fingerprint(self.engine, store().root / ".state" / "code.sqlite")
        unkeyed = {name: names for name, value in groups.items() if (names := value.unkeyed())}
        return Order(self.name, code, settings, inputs, unkeyed)

    def __call__(self, run: Run, **arguments: Settings | Handle) -> Handle:
        """Return the artifact of these settings and inputs, by a Prefect task run that makes it or is cached."""
        quieten()
        order = self.order(run, **arguments)
        if run.plan is not None:
            return run.plan(order)
        run.reach(order.key)
        place = store()
        slot = place.slot(self.name, order.key, fresh=self.name in run.force)
        forget_foreign(slot / RECORD, Handle(stage=self.name, folder=slot.name, key=order.key))
        locks = StageLocks(place.root / ".state" / "locks")
        policy = _SlotPolicy().configure(lock_manager=locks, isolation_level=IsolationLevel.SERIALIZABLE)

        # Prefect shows the parameters of the call and draws them as arrows between stages.
        def make(slot: str, settings: dict[str, Any], inputs: dict[str, Handle]) -> Handle:
            return self._make(order, place.root / slot, run, arguments)

        cached = task(
            name=self.name,
            description=inspect.getdoc(self._body),
            cache_policy=policy,
            persist_result=True,
            result_serializer="json",
            cache_result_in_memory=False,
            retries=2,
            retry_delay_seconds=5,
            retry_condition_fn=_is_transient,
            on_completion=[self._show],
            on_failure=[_forget_task_exception],
        )(make)
        handles = {name: value for name, value in arguments.items() if isinstance(value, Handle)}
        return cached(f"{self.name}/{slot.name}", dict(order.settings), handles)

    def _make(self, order: Order, slot: Path, run: Run, arguments: dict[str, Settings | Handle]) -> Handle:
        picture = functools.partial(self._panel.live, partial_of(slot)) if self._panel and self._panel.live else None

        def build(out: Path) -> Outcome:
            get_run_logger().info("%s runs in %s", self.name, out)
            with Reporter(self.name, picture) as progress:
                forced = self.name in run.force
                if not forced and (why := run.why(order)):
                    self._note(why)
                inputs = [artifact_of(one) for one in arguments.values() if isinstance(one, Handle)]
                for one in inputs:
                    if not files_stay and one.manifest.stage != "shard":  # its readers take parts of files at a store
                        store().fetch(one)
                work = Work(out, run.seed, run.compute, progress, order, forced, self._note, inputs)
                return self._body(work, **arguments)

        files_stay = self._in_shards and run.compute.executor == "dask"
        artifact, made = store().make(order, slot, build, files_stay=files_stay)
        event = Event(self.name, "made" if made else "cached", artifact=artifact)
        get_run_logger().info("%s: %s", self.name, made_in_words(event))
        emit(event)
        return handle_of(artifact)

    def _note(self, message: str) -> None:
        get_run_logger().warning("%s: %s", self.name, message)
        emit(Event(self.name, "note", message=message))

    def _show(self, task: Any, task_run: TaskRun, state: State[Handle]) -> None:
        """Post the artifact's page and add it to the summary; a Prefect hook of made and cached artifacts."""
        handle = state.result(raise_on_failure=False)
        if isinstance(handle, Handle):
            artifact = artifact_of(handle)
            if state.name == "Cached":
                emit(Event(self.name, "cached", artifact=artifact))
            summary.show(artifact, self._panel, task_run)


def stage(
    name: str,
    *,
    engine: Sequence[str],
    seeded: bool = False,
    raw: Callable[[Any], dict[str, str]] | None = None,
    panel: panels.Panel | None = None,
    in_shards: bool = False,
) -> Callable[[Callable[..., Outcome]], Stage]:
    """Make a stage of a function `(work, **settings and inputs) -> Outcome`.

    Args:
        name: Name of the stage.
        engine: Engine modules of the stage; their code and that of their imports enters the artifact's key.
        seeded: Whether the stage uses random numbers, so that the recipe's seed enters the key.
        raw: Returns the digests of raw input files for the stage's settings; they enter the key.
        panel: The stage's page in the UI.
        in_shards: Whether only shards on the stage's executor read and write large files, so that a cluster may leave
            them at the store.
    """
    return lambda body: Stage(name, body, engine, seeded, raw, panel, in_shards)


def _is_transient(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether a retry may help, as after a full disk or a killed worker."""
    return isinstance(state.result(raise_on_failure=False), OSError | BrokenProcessPool)


def _forget_task_exception(task: Any, task_run: TaskRun, state: State[Any]) -> None:
    _forget_exception(state)


def forget_flow_exception(flow: Any, flow_run: Any, state: State[Any]) -> None:
    """Hook of a flow's failure: delete the pickled exception that Prefect writes beside the artifacts."""
    _forget_exception(state)


def _forget_exception(state: State[Any]) -> None:
    metadata = getattr(state.data, "metadata", None)
    if metadata is not None and metadata.storage_key:
        store().root.joinpath(Path(metadata.storage_key).name).unlink(missing_ok=True)
