"""Recipes by name, out of the Prefect deployment file, and single settings changed in them."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from homegrown.errors import UserError
from homegrown.recipe import Recipe

PIPELINES = Path("pipelines.yaml")


def load_recipe(name: str, changes: Iterable[str] = (), file: Path = PIPELINES) -> Recipe:
    """Return the recipe of the deployment `name` in `file`, with `changes` such as `training.max_steps=200` made.

    Raises:
        UserError: no such file or pipeline, a change that names no setting, or a value of the wrong type.
    """
    values = _recipes(file)
    if name not in values:
        raise UserError(f"{file} has no pipeline {name!r}; it has: {', '.join(values)}.")
    recipe = _copy(values[name])
    for change in changes:
        _apply(recipe, change)
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as error:
        raise UserError(f"The recipe {name!r} of {file} is wrong: {explain(error)}.") from error


def pipeline_names(file: Path = PIPELINES) -> list[str]:
    """Return the names of all recipes in `file`, in its order; raises UserError like `load_recipe`."""
    return list(_recipes(file))


def explain(error: ValidationError) -> str:
    """Say in one line which settings are wrong and why."""
    problems = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"])
        reason = detail["msg"].removeprefix("Value error, ")
        given = "" if detail["type"] == "missing" or not place else f" (given: {detail['input']!r:.60})"
        problems.append(f"{place}: {reason}{given}" if place else reason)
    return "; ".join(problems)


def _recipes(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"There is no {file} in {Path.cwd()}; run homegrown in the project's folder.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        deployments = content["deployments"]
        return {one["name"]: one["parameters"]["recipe"] for one in deployments if "recipe" in one["parameters"]}
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}.") from error
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no deployment file with a recipe in each deployment's parameters ({error})."
        ) from error


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
        raise UserError(f"--set {change}: write it as SETTING=VALUE, such as training.max_steps=200.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {change}: the value is no YAML ({' '.join(str(error).split())}).") from error
    *parents, last = path.split(".")
    target: Any = recipe
    for part in parents:
        target = target[_member(target, part, change)]
    target[_member(target, last, change)] = value


def _member(target: Any, part: str, change: str) -> str | int:
    if isinstance(target, list):
        if part.isdigit() and int(part) < len(target):
            return int(part)
        raise UserError(f"--set {change}: {part!r} is no place in a list of {len(target)} (0 is the first).")
    if isinstance(target, dict):
        if part in target:
            return part
        near = difflib.get_close_matches(part, target, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(target)}."
        raise UserError(f"--set {change}: there is no setting {part!r}; {hint}")
    raise UserError(f"--set {change}: {part!r} is inside a setting that has no parts.")
