"""The check of `pipelines.yaml`: Prefect itself ignores unknown keys, and so typos."""

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
"""Our own top-level key for YAML anchors that deployments share. Its content is checked where it is used."""

_MODELS = file_models()
_JOB_VARIABLES = set(ProcessWorker.get_default_base_job_template()["variables"]["properties"])


@dataclass(frozen=True)
class Checked:
    """The deployments and work pools of a valid file."""

    deployments: list[str]
    """Their names, `flow/deployment`, in the file's order."""
    pools: list[str]
    """Names of the work pools, each once."""
    schedules: dict[str, list[dict[str, Any]]]
    """The schedules of each deployment, as in the file."""


def check(file: Path) -> Checked:
    """Read a deployment file and refuse unknown keys and invalid parameters.

    Raises:
        UserError: the file does not exist, or has a mistake; the message suggests a similar key.
    """
    content = read(file)
    checker = _Checker(file)
    checker.keys(content, {*_names(_MODELS.file), _DEFINITIONS}, "at the top")
    for action in ("build", "push", "pull"):
        checker.steps(content.get(action), action)
    deployments = content.get("deployments")
    if not isinstance(deployments, list) or not deployments:
        raise UserError(f"{file} has no list of deployments; add one under the key deployments.")
    names, pools, schedules = [], [], {}
    for index, deployment in enumerate(deployments):
        flow, pool = checker.deployment(deployment, f"deployments.{index}")
        names.append(f"{flow}/{deployment['name']}")
        pools.append(pool)
        schedules[names[-1]] = _schedules(deployment)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file} has two deployments {twice!r}; rename one of them.")
    return Checked(names, list(dict.fromkeys(pools)), schedules)


class _Checker:
    """Checks the parts of a file; each method raises UserError at the first mistake."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._flows: dict[str, Flow[Any, Any]] = {}

    def deployment(self, values: Any, place: str) -> tuple[str, str]:
        """Check a deployment; return the names of its flow and its work pool."""
        self.keys(values, _names(_MODELS.deployment), place)
        for key in ("name", "entrypoint", "work_pool"):
            if not values.get(key):
                raise self._wrong(place, f"the key {key!r} is missing")
        place = f"deployment {values['name']!r}"
        self._work_pool(values["work_pool"], f"{place}, work_pool")
        if isinstance(limit := values.get("concurrency_limit"), dict):
            self.keys(limit, _names(_MODELS.concurrency_limit), f"{place}, concurrency_limit")
        for action in ("build", "push", "pull"):
            self.steps(values.get(action), f"{place}, {action}")
        flow = self._flow(values["entrypoint"], place)
        self._parameters(flow, values.get("parameters") or {}, f"{place}, parameters", complete=True)
        for index, schedule in enumerate(_schedules(values)):
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
        """Check that `values` is a mapping with keys in `known` only."""
        if not isinstance(values, dict):
            raise self._wrong(place, f"expected a mapping of keys to values (given: {values!r:.60})")
        known = sorted(known)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys are: {', '.join(known)}"
                raise self._wrong(place, f"unknown key {key!r}; {hint}")

    def steps(self, steps: Any, place: str) -> None:
        """Check the steps of a build, push or pull: the dotted name of a function and its arguments."""
        if steps is None:
            return
        for step in [steps] if isinstance(steps, dict) else steps:
            if not isinstance(step, dict) or len(step) != 1:
                raise self._wrong(
                    place, f"expected the dotted name of a function with its arguments (given: {step!r:.60})"
                )
            ((name, arguments),) = step.items()
            try:
                function = import_object(name)
            except (ImportError, AttributeError, ValueError) as error:
                raise self._wrong(place, f"no function {name!r} exists for a step ({error})") from error
            self.keys(arguments, {*inspect.signature(function).parameters, *_MODELS.step_keys}, f"{place}, {name}")

    def _work_pool(self, values: Any, place: str) -> None:
        self.keys(values, _names(_MODELS.work_pool), place)
        if not values.get("name"):
            raise self._wrong(place, "the key 'name' is missing")
        variables = values.get("job_variables") or {}
        self.keys(variables, _JOB_VARIABLES, f"{place}, job_variables")
        if any("prefect.blocks" in text for text in _texts(variables)):
            raise self._wrong(
                f"{place}, job_variables",
                "Prefect would store the secret of the block in clear when it deploys; set it in the work pool "
                "(docs/security.md)",
            )

    def _flow(self, entrypoint: str, place: str) -> Flow[Any, Any]:
        if entrypoint not in self._flows:
            try:
                self._flows[entrypoint] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
            except Exception as error:  # whatever importing a module raises
                raise self._wrong(place, f"no flow exists at the entrypoint {entrypoint!r} ({error})") from error
        return self._flows[entrypoint]

    def _schedule(self, flow: Flow[Any, Any], values: Any, place: str) -> None:
        self.keys(values, _names(_MODELS.schedule), place)
        try:
            _MODELS.schedule.model_validate(values)
        except ValidationError as error:
            raise self._wrong(place, explain(error)) from error
        self._parameters(flow, values.get("parameters") or {}, f"{place}, parameters", complete=False)

    def _parameters(self, flow: Flow[Any, Any], values: Any, place: str, *, complete: bool) -> None:
        """Check parameters of a flow by its types; with `complete`, all required ones must be set."""
        known = inspect.signature(flow.fn).parameters
        self.keys(values, known, place)
        if complete:
            for name, parameter in known.items():
                if parameter.default is parameter.empty and name not in values:
                    raise self._wrong(place, f"the parameter {name!r} is missing")
        if template := next((text for text in _texts(values) if "{{" in text), None):
            raise self._wrong(
                place, f"Prefect would expand {template!r:.60}, perhaps to a secret; write it without {{{{"
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


def _schedules(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schedules of a deployment: Prefect reads two keys."""
    return [*([deployment["schedule"]] if deployment.get("schedule") else []), *(deployment.get("schedules") or [])]


def _texts(values: Any) -> Iterator[str]:
    """Yield every string in parameters, including keys."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for inner in (*values, *values.values()) if isinstance(values, dict) else values:
            yield from _texts(inner)


def _names(*models: type[BaseModel]) -> set[str]:
    """Return the keys of all models."""
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


_SLA = _names(*_MODELS.slas)
_TRIGGER = _names(DeploymentEventTrigger, DeploymentMetricTrigger, DeploymentCompoundTrigger, DeploymentSequenceTrigger)
