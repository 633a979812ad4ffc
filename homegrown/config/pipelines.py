"""Recipes by name from the Prefect deployment file, with single settings changed."""

import difflib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from homegrown.config.addresses import shown
from homegrown.config.finetune_recipe import DpoRecipe, FinetuneRecipe
from homegrown.config.recipe import Recipe
from homegrown.config.settings import Settings
from homegrown.util.errors import UserError

PIPELINES = Path("pipelines.yaml")
AUTO = "auto"
"""The deployment whose recipe depends on a budget, the text and the machine."""

AnyRecipe = TypeVar("AnyRecipe", Recipe, FinetuneRecipe, DpoRecipe)
_PRETRAIN, _ADAPT = "flows.pretrain.pretrain", "flows.adapt.adapt"
_FINETUNE, _DPO = "flows.finetune.finetune", "flows.dpo.dpo"
_AUTO = "flows.auto.auto"
"""Entry points of the flows with a recipe; deployments of fine-tuning and DPO have the names of others."""
_FILES = (".yaml", ".yml")
"""Suffixes of files with a recipe."""
_WARMUP_SHARE = 10
"""A shortened training warms up for at most a tenth of its steps, as one by `epochs` does."""
_log = logging.getLogger(__name__)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML was built with it: .02 instead of .17 s for `pipelines.yaml`, at each command."""


def load_recipe(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> Recipe:
    """Return the recipe of the deployment `name` in `file`, with `changes` such as `training.max_steps=200`.

    A `name` that ends in .yaml is a file with one recipe, such as `run auto --dry-run` prints. A warm-up that `changes`
    do not set follows fewer steps, which is logged.

    Raises:
        UserError: the file, the pipeline or a changed setting does not exist, or a value has the wrong type.
    """
    if name.endswith(_FILES):
        return _changed(Recipe, _one_recipe(Path(name)), changes, f"The recipe in {name}")
    values = _recipes(file, _PRETRAIN, _ADAPT)
    if name == AUTO and name not in values:
        raise UserError(
            "auto has no fixed recipe; name a file with the one for a budget, which `homegrown run auto --time 45m "
            "--dry-run > own.yaml` writes."
        )
    if name not in values:
        raise UserError(f"{file} has no pipeline {name!r}; choose one of {', '.join(values)}.")
    return _changed(Recipe, values[name], changes, f"The recipe {name!r} of {file}")


def load_auto(changes: Iterable[str] = (), file: Path = PIPELINES) -> Recipe:
    """Return the recipe of the deployment `auto`, with `changes`; the dial replaces its model and training.

    Raises:
        UserError: as `load_recipe` does.
    """
    values = _recipes(file, _AUTO)
    if AUTO not in values:
        raise UserError(f"{file} has no deployment {AUTO!r}; restore it from the project's own file.")
    return _changed(Recipe, values[AUTO], changes, f"The recipe {AUTO!r} of {file}")


def load_finetuning(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> FinetuneRecipe:
    """Return the recipe of the deployment `finetune/<name>`, with `changes`.

    Raises:
        UserError: as `load_recipe` does.
    """
    return _deployed(FinetuneRecipe, _FINETUNE, name, changes, file)


def load_dpo(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> DpoRecipe:
    """Return the recipe of the deployment `dpo/<name>`, with `changes`.

    Raises:
        UserError: as `load_recipe` does.
    """
    return _deployed(DpoRecipe, _DPO, name, changes, file)


def load_any(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> Recipe | FinetuneRecipe:
    """Return the recipe of a deployment named with or without its flow, such as finetune/tiny, or of a file.

    Raises:
        UserError: as `load_recipe` does.
    """
    flow, _, deployment = name.partition("/")
    if not deployment or name.endswith(_FILES) or flow not in ("finetune", "pretrain", "adapt"):
        return load_recipe(name, changes, file)
    if flow == "finetune":
        return load_finetuning(deployment, changes, file)
    return load_recipe(deployment, changes, file)


def recipe_values(name: str, file: Path = PIPELINES) -> dict[str, Any]:
    """Return the recipe of pretraining, fine-tuning or DPO with this name as plain values.

    Raises:
        UserError: no recipe has this name, or it is invalid.
    """
    for deployment, values in _recipes(file, _FINETUNE).items():
        if values.get("name") == name:
            return load_finetuning(deployment, file=file).model_dump(mode="json")
    for deployment, values in _recipes(file, _DPO).items():
        if values.get("name") == name:
            return load_dpo(deployment, file=file).model_dump(mode="json")
    return load_recipe(name, file=file).model_dump(mode="json")


def change_recipe(recipe: AnyRecipe, changes: Iterable[str], note: Callable[[str], None] = _log.warning) -> AnyRecipe:
    """Return the recipe with `changes` such as `training.max_steps=200`.

    A warm-up that they do not set follows fewer steps; `note` is called with a message then.

    Raises:
        UserError: a changed setting does not exist, or a value has the wrong type.
    """
    changes = list(changes)
    if not changes:
        return recipe
    return _changed(type(recipe), recipe.model_dump(mode="json"), changes, f"The recipe {recipe.name!r}", note)


def pipeline_names(file: Path = PIPELINES) -> list[str]:
    """Return the names of all pretraining recipes in `file`, in its order; raise UserError like `load_recipe`."""
    return list(_recipes(file, _PRETRAIN, _ADAPT))


def explain(error: ValidationError) -> str:
    """Return one line with each invalid setting and the reason."""
    problems = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"])
        reason = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(detail["loc"][-1]), _every_name(Settings), n=1)
            reason = f"unknown setting{f', did you mean {near[0]!r}?' if near else ''}"
        # Too long to repeat: the recipe itself, or a group of settings that do not fit each other.
        is_group = not isinstance(detail["input"], str | int | float) and (not place or detail["type"] == "value_error")
        given = "" if detail["type"] == "missing" or is_group else f" (given: {shown(repr(detail['input'])):.60})"
        problems.append(f"{place}: {reason}{given}" if place else f"{reason}{given}")
    return "; ".join(problems)


def read(file: Path) -> Any:
    """Return the content of a YAML file; raise UserError if it is missing or invalid."""
    if not file.is_file():
        raise UserError(f"No {file} in {Path.cwd()}; run homegrown in the project's folder.")
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from error


def _one_recipe(file: Path) -> dict[str, Any]:
    """Return the values of a file that has one recipe."""
    if not file.is_file():
        raise UserError(f"The file of a recipe {file} does not exist; write one with `homegrown run auto --dry-run`.")
    values = read(file)
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise UserError(f"{file} is not a recipe: it has no name; `homegrown run auto --dry-run` prints one.")
    return values


def _recipes(file: Path, *entrypoints: str) -> dict[str, Any]:
    """Return the recipes of the deployments with one of these entry points, by the name of the deployment."""
    content = read(file)
    try:
        deployments = [one for one in content["deployments"] if one.get("entrypoint", _PRETRAIN) in entrypoints]
        return {one["name"]: one["parameters"]["recipe"] for one in deployments if "recipe" in one["parameters"]}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a deployment file with a recipe in the parameters of each deployment ({error})."
        ) from error


def _deployed(kind: type[AnyRecipe], entrypoint: str, name: str, changes: Iterable[str], file: Path) -> AnyRecipe:
    """Return the recipe of the deployment `name` of a flow whose deployments are named after it."""
    values, flow = _recipes(file, entrypoint), entrypoint.rpartition(".")[2]
    if name not in values:
        known = ", ".join(values) or "none"
        hint = f" Name a base by --base {name}." if "@" in name or "/" in name or name.endswith(".gguf") else ""
        raise UserError(f"{file} has no deployment {flow}/{name}; it has: {known}.{hint}")
    return _changed(kind, values[name], changes, f"The recipe of {flow}/{name} in {file}")


def _changed(
    kind: type[AnyRecipe],
    values: dict[str, Any],
    changes: Iterable[str],
    what: str,
    note: Callable[[str], None] = _log.warning,
) -> AnyRecipe:
    changes, unchanged, values = list(changes), values, _copy(values)
    for change in changes:
        _apply(values, change)
    following = _shorten_warmup(values, unchanged, changes)
    try:
        recipe = kind.model_validate(values)
        if following:
            note(following)
        return recipe
    except ValidationError as error:
        if changes and _is_valid(kind, unchanged):
            subject = f"{', '.join(shown(repr(change)) for change in changes)} of {what[0].lower()}{what[1:]}"
            changed = f"The change{'s' if len(changes) > 1 else ''} {subject}"
            raise UserError(f"{changed} cannot be made: {explain(error)}.") from error
        raise UserError(f"{what} is invalid: {explain(error)}.") from error


def _is_valid(kind: type[AnyRecipe], values: dict[str, Any]) -> bool:
    try:
        kind.model_validate(values)
    except ValidationError:
        return False
    return True


def _shorten_warmup(values: dict[str, Any], unchanged: dict[str, Any], changes: list[str]) -> str | None:
    """Shorten the warm-up in `values` if `changes` lower max_steps and do not set it; return a message then."""
    names = {change.partition("=")[0].strip() for change in changes}
    if "training.max_steps" not in names or names & {"training", "training.warmup_steps"}:
        return None
    training, before = values["training"], unchanged["training"]
    steps, own = training["max_steps"], training.get("warmup_steps")
    if training.get("epochs") is not None or not (isinstance(steps, int) and isinstance(own, int)):
        return None
    if not 0 < steps < before["max_steps"] or own <= steps // _WARMUP_SHARE:
        return None
    warmup = training["warmup_steps"] = steps // _WARMUP_SHARE
    return (
        f"training.warmup_steps is {warmup:,}, not {own:,}: at most a tenth of max_steps ({steps:,}); set it to change "
        "that."
    )


def _copy(value: Any) -> Any:
    """Copy plain YAML values; deployments share them through anchors, so a change in place would spread."""
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return value


def _apply(recipe: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals:
        raise UserError(f"The change {change!r} is not SETTING=VALUE; write, for example, training.max_steps=200.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"The value in {change!r} is not valid YAML ({' '.join(str(error).split())}).") from error
    *parents, last = path.strip().split(".")
    target: Any = recipe
    for part in parents:
        target = target[_member(recipe, target, part, change)]
    target[_member(recipe, target, last, change)] = value


def _member(recipe: dict[str, Any], target: Any, part: str, change: str) -> str | int:
    if isinstance(target, dict) and part in target:
        return part
    if isinstance(target, list):
        if part.isdigit() and int(part) < len(target):
            return int(part)
        raise UserError(f"In the change {change!r}, {part!r} is not an index of a list of {len(target)}; count from 0.")
    name = change.partition("=")[0].strip()
    if not isinstance(target, dict):
        raise UserError(f"In the change {change!r}, {part!r} is inside a setting without parts; set that.")
    near = nearest(name, _setting_names(recipe))
    parts = (
        f"{name.rpartition('.')[0]} has {', '.join(target)}" if target is not recipe else f"it has {', '.join(recipe)}"
    )
    hint = f"did you mean {near!r}?" if near else f"{parts}."
    raise UserError(f"The recipe {recipe['name']!r} has no setting for the change {change!r}; {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known dotted name closest to `name`, by its last part, in the same group first; None without one."""
    group, _, last = name.rpartition(".")
    by_end: dict[str, str] = {}
    siblings: dict[str, str] = {}
    for one in known:
        there, _, end = one.rpartition(".")
        by_end.setdefault(end, one)
        if there == group:
            siblings[end] = one
    for ends in (siblings, by_end):
        if close := difflib.get_close_matches(last, ends, n=1):
            return ends[close[0]]
    return None


def _every_name(model: type[Settings]) -> set[str]:
    """Return the names of all settings of a class and its subclasses."""
    return set(model.model_fields).union(*(_every_name(one) for one in model.__subclasses__()))


def _setting_names(values: Any, place: str = "") -> list[str]:
    """Return the dotted names of all settings and groups of settings."""
    members = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    found = [place] if place else []
    for name, inner in members:
        found += _setting_names(inner, f"{place}.{name}" if place else str(name))
    return found
