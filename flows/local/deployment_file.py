"""`pipelines.yaml` checked whole: Prefect silently passes over keys that it does not know, and so over typos."""

import difflib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from prefect import Flow
from prefect.events.schemas.deployment_triggers import (
    DeploymentCompoundTrigger,
    DeploymentEventTrigger,
    DeploymentMetricTrigger,
    DeploymentSequenceTrigger,
)
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.importtools import import_object
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, TypeAdapter, ValidationError

from flows.local.prefect_internals import file_models
from homegrown.config.pipelines import explain, read
from homegrown.util.errors import UserError

_DEFINITIONS = "definitions"
"""Our own key at the top, for what deployments share by YAML's anchors. What it holds is checked where it is used."""

_MODELS = file_models()
_JOB_VARIABLES = set(ProcessWorker.get_default_base_job_template()["variables"]["properties"])


@dataclass(frozen=True)
class Checked:
    """What a deployment file without mistakes deploys, and where."""

    deployments: list[str]
    """As Prefect names them, `flow/deployment`, in the file's order."""
    pools: list[str]
    """Names of the work pools, each once."""


def check(file: Path) -> Checked:
    """Read a deployment file and refuse any key that nothing would read, and any parameter that does not fit.

    Raises:
        UserError: there is no such file, or the first mistake in it, with the key that was probably meant.
    """
    content = read(file)
    checker = _Checker(file)
    checker.keys(content, {*_names(_MODELS.file), _DEFINITIONS}, "at the top")
    for action in ("build", "push", "pull"):
        checker.steps(content.get(action), action)
    deployments = content.get("deployments")
    if not isinstance(deployments, list) or not deployments:
        raise UserError(f"{file} has no list of deployments.")
    names, pools = [], []
    for index, deployment in enumerate(deployments):
        flow, pool = checker.deployment(deployment, f"deployments.{index}")
        names.append(f"{flow}/{deployment['name']}")
        pools.append(pool)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file} has two deployments {twice!r}; the second would replace the first.")
    return Checked(names, list(dict.fromkeys(pools)))


class _Checker:
    """Checks the parts of one file; each raises UserError at the first mistake."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._flows: dict[str, Flow[Any, Any]] = {}

    def deployment(self, values: Any, place: str) -> tuple[str, str]:
        """Check a deployment; return the names of its flow and of its work pool."""
        self.keys(values, _names(_MODELS.deployment), place)
        for key in ("name", "entrypoint", "work_pool"):
            if not values.get(key):
                raise self._wrong(place, f"it has no {key}")
        place = f"deployment {values['name']!r}"
        self._work_pool(values["work_pool"], f"{place}, work_pool")
        if isinstance(limit := values.get("concurrency_limit"), dict):
            self.keys(limit, _names(_MODELS.concurrency_limit), f"{place}, concurrency_limit")
        for action in ("build", "push", "pull"):
            self.steps(values.get(action), f"{place}, {action}")
        flow = self._flow(values["entrypoint"], place)
        self._parameters(flow, values.get("parameters") or {}, f"{place}, parameters", whole=True)
        schedules = [*([values["schedule"]] if values.get("schedule") else []), *(values.get("schedules") or [])]
        for index, schedule in enumerate(schedules):
            self._schedule(flow, schedule, f"{place}, schedule {index}")
        for key, known in (("triggers", _TRIGGER), ("sla", _SLA)):
            for part in values.get(key) or []:
                self.keys(part, known, f"{place}, {key}")
        try:
            _MODELS.deployment.model_validate(values)
        except ValidationError as error:
            raise self._wrong(place, explain(error)) from error
        return flow.name, values["work_pool"]["name"]

    def keys(self, values: Any, known: Iterable[str], place: str) -> None:
        """Check that `values` is a mapping with no key but those in `known`."""
        if not isinstance(values, dict):
            raise self._wrong(place, f"it is no mapping of keys to values (given: {values!r:.60})")
        known = sorted(known)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
                raise self._wrong(place, f"there is no key {key!r}; {hint}")

    def steps(self, steps: Any, place: str) -> None:
        """Check the steps of a build, push or pull: a function's dotted name and arguments that it takes."""
        if steps is None:
            return
        for step in [steps] if isinstance(steps, dict) else steps:
            if not isinstance(step, dict) or len(step) != 1:
                raise self._wrong(place, f"a step is a function's dotted name and its arguments (given: {step!r:.60})")
            ((name, arguments),) = step.items()
            try:
                function = import_object(name)
            except (ImportError, AttributeError, ValueError) as error:
                raise self._wrong(place, f"there is no function {name!r} for a step ({error})") from error
            self.keys(arguments, {*inspect.signature(function).parameters, *_MODELS.step_keys}, f"{place}, {name}")

    def _work_pool(self, values: Any, place: str) -> None:
        self.keys(values, _names(_MODELS.work_pool), place)
        if not values.get("name"):
            raise self._wrong(place, "it has no name")
        variables = values.get("job_variables") or {}
        self.keys(variables, _JOB_VARIABLES, f"{place}, job_variables")
        if any("prefect.blocks" in text for text in _texts(variables)):
            raise self._wrong(
                f"{place}, job_variables",
                "Prefect would fill in the block as it deploys, and keep the secret in clear; put it into the work "
                "pool (docs/security.md)",
            )

    def _flow(self, entrypoint: str, place: str) -> Flow[Any, Any]:
        if entrypoint not in self._flows:
            try:
                self._flows[entrypoint] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
            except Exception as error:  # whatever importing a module raises
                raise self._wrong(place, f"there is no flow at the entrypoint {entrypoint!r} ({error})") from error
        return self._flows[entrypoint]

    def _schedule(self, flow: Flow[Any, Any], values: Any, place: str) -> None:
        self.keys(values, _names(_MODELS.schedule), place)
        try:
            _MODELS.schedule.model_validate(values)
        except ValidationError as error:
            raise self._wrong(place, explain(error)) from error
        self._parameters(flow, values.get("parameters") or {}, f"{place}, parameters", whole=False)

    def _parameters(self, flow: Flow[Any, Any], values: Any, place: str, *, whole: bool) -> None:
        """Check parameters of a flow by its types; those of a schedule need not be all (`whole`)."""
        known = inspect.signature(flow.fn).parameters
        self.keys(values, known, place)
        if whole:
            for name, parameter in known.items():
                if parameter.default is parameter.empty and name not in values:
                    raise self._wrong(place, f"there is no {name}")
        if template := next((text for text in _texts(values) if "{{" in text), None):
            raise self._wrong(
                place, f"Prefect would fill in {template!r:.60}, perhaps with a secret; write it without {{{{"
            )
        types = get_type_hints(flow.fn, include_extras=True)
        for name, value in values.items():
            try:
                TypeAdapter(types[name]).validate_python(value)
            except ValidationError as error:
                raise self._wrong(f"{place}, {name}", explain(error)) from error

    def _wrong(self, place: str, problem: str) -> UserError:
        end = "" if problem.endswith("?") else "."
        return UserError(f"{self._file}, {place}: {problem}{end}")


def _texts(values: Any) -> Iterator[str]:
    """Yield every text in parameters, names among them."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for inner in (*values, *values.values()) if isinstance(values, dict) else values:
            yield from _texts(inner)


def _names(*models: type[BaseModel]) -> set[str]:
    """Return the keys that any of the models reads."""
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


_SLA = _names(*_MODELS.slas)
_TRIGGER = _names(DeploymentEventTrigger, DeploymentMetricTrigger, DeploymentCompoundTrigger, DeploymentSequenceTrigger)
