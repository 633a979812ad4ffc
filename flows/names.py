"""What runs are called."""

import re
from datetime import UTC, datetime

from prefect.runtime import flow_run


def run_name(what: str) -> str:
    """Return `what` with the present time; a run that is tried again keeps the name that it got first."""
    named: str | None = flow_run.name
    if named and re.fullmatch(rf"{re.escape(what)}-\d{{8}}-\d{{6}}", named):
        return named
    return f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def recipe_run_name() -> str:
    """Return the name of a run whose flow has a recipe, after it."""
    recipe = flow_run.parameters["recipe"]
    return run_name(recipe["name"] if isinstance(recipe, dict) else recipe.name)
