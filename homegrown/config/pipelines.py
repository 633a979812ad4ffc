"""Recipes by name, out of the Prefect deployment file, and single settings changed in them."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from homegrown.config.addresses import shown
from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.config.recipe import Recipe, Settings
from homegrown.util.errors import UserError

PIPELINES = Path("pipelines.yaml")

AnyRecipe = TypeVar("AnyRecipe", Recipe, FinetuneRecipe)
_PRETRAIN, _FINETUNE = "flows.pretrain.pretrain", "flows.finetune.finetune"
"""Entry points of the flows that take a recipe; deployments of both have the same names."""


def load_recipe(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> Recipe:
    """Return the recipe of the deployment `name` in `file`, with `changes` such as `training.max_steps=200` made.

    Raises:
        UserError: no such file or pipeline, a change that names no setting, or a value of the wrong type.
    """
    values = _recipes(file)
    if name not in values:
        raise UserError(f"{file} has no pipeline {name!r}; it has: {', '.join(values)}.")
    return _changed(Recipe, values[name], changes, f"The recipe {name!r} of {file}")


def load_finetuning(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> FinetuneRecipe:
    """Return the recipe of the deployment `finetune/<name>`, with `changes` made.

    Raises:
        UserError: as `load_recipe` does.
    """
    values = _recipes(file, _FINETUNE)
    if name not in values:
        there = ", ".join(values) or "none"
        raise UserError(f"{file} has no deployment finetune/{name}; those of fine-tuning are: {there}.")
    return _changed(FinetuneRecipe, values[name], changes, f"The recipe of finetune/{name} in {file}")


def recipe_values(name: str, file: Path = PIPELINES) -> dict[str, Any]:
    """Return the recipe that has this name, be it of pretraining or of fine-tuning, as plain values.

    Raises:
        UserError: there is none, or it is wrong.
    """
    for deployment, values in _recipes(file, _FINETUNE).items():
        if values.get("name") == name:
            return load_finetuning(deployment, file=file).model_dump(mode="json")
    return load_recipe(name, file=file).model_dump(mode="json")


def change_recipe(recipe: AnyRecipe, changes: Iterable[str]) -> AnyRecipe:
    """Return the recipe with `changes` such as `training.max_steps=200` made; itself where there are none.

    Raises:
        UserError: a change that names no setting, or a value of the wrong type.
    """
    changes = list(changes)
    if not changes:
        return recipe
    return _changed(type(recipe), recipe.model_dump(mode="json"), changes, f"The recipe {recipe.name!r}")


def pipeline_names(file: Path = PIPELINES) -> list[str]:
    """Return the names of all pretraining recipes in `file`, in its order; raises UserError like `load_recipe`."""
    return list(_recipes(file))


def explain(error: ValidationError) -> str:
    """Say in one line which settings are wrong and why."""
    problems = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"])
        reason = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(detail["loc"][-1]), _every_name(Settings), n=1)
            reason = f"there is no such setting{f', did you mean {near[0]!r}?' if near else ''}"
        # Too long to repeat: the recipe itself, or a group of settings that do not fit each other.
        whole = not isinstance(detail["input"], str | int | float) and (not place or detail["type"] == "value_error")
        given = "" if detail["type"] == "missing" or whole else f" (given: {shown(repr(detail['input'])):.60})"
        problems.append(f"{place}: {reason}{given}" if place else f"{reason}{given}")
    return "; ".join(problems)


def read(file: Path) -> Any:
    """Return what is in a YAML file; raises UserError when it is not there, or no YAML."""
    if not file.is_file():
        raise UserError(f"There is no {file} in {Path.cwd()}; run homegrown in the project's folder.")
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}.") from error


def _recipes(file: Path, entrypoint: str = _PRETRAIN) -> dict[str, Any]:
    content = read(file)
    try:
        deployments = [one for one in content["deployments"] if one.get("entrypoint", _PRETRAIN) == entrypoint]
        return {one["name"]: one["parameters"]["recipe"] for one in deployments if "recipe" in one["parameters"]}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no deployment file with a recipe in each deployment's parameters ({error})."
        ) from error


def _changed(kind: type[AnyRecipe], values: dict[str, Any], changes: Iterable[str], what: str) -> AnyRecipe:
    values = _copy(values)
    for change in changes:
        _apply(values, change)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{what} is wrong: {explain(error)}.") from error


def _copy(value: Any) -> Any:
    """Copy plain YAML values; anchors make deployments share them, so changing one in place would change others."""
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return value


def _apply(recipe: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals:
        raise UserError(f"The change {change!r} is not written as SETTING=VALUE, such as training.max_steps=200.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"The value in the change {change!r} is no YAML ({' '.join(str(error).split())}).") from error
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
        raise UserError(f"In the change {change!r}, {part!r} is no place in a list of {len(target)} (0 is the first).")
    name = change.partition("=")[0].strip()
    if not isinstance(target, dict):
        raise UserError(f"In the change {change!r}, {part!r} is inside a setting that has no parts.")
    near = nearest(name, _setting_names(recipe))
    hint = f"did you mean {near!r}?" if near else f"the parts of a recipe are: {', '.join(recipe)}."
    raise UserError(f"The change {change!r} names no setting of the recipe {recipe['name']!r}; {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known dotted name that `name` was most likely meant to be: one that ends so, or is spelt almost so."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close and close[0].count(".") == name.count("."):
        return close[0]
    last = name.rpartition(".")[2]
    by_end: dict[str, str] = {}
    for one in known:
        by_end.setdefault(one.rpartition(".")[2], one)
    ends = difflib.get_close_matches(last, by_end, n=1)
    return by_end[ends[0]] if ends else next(iter(close), None)


def _every_name(model: type[Settings]) -> set[str]:
    """Return the names of all settings of a class of settings and those made from it."""
    return set(model.model_fields).union(*(_every_name(one) for one in model.__subclasses__()))


def _setting_names(values: Any, place: str = "") -> list[str]:
    """Return every setting by its dotted name, groups of settings among them."""
    members = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    found = [place] if place else []
    for name, inner in members:
        found += _setting_names(inner, f"{place}.{name}" if place else str(name))
    return found
