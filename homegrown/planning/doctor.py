"""The diagnosis of this machine: whether homegrown and a recipe run on it, and what hardware each recipe needs."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homegrown.config.recipe import Recipe
from homegrown.corpus.sources import finding_once
from homegrown.planning.checks import Check, machine_checks
from homegrown.planning.machine import Machine
from homegrown.planning.presets import Wants, wants
from homegrown.planning.recipe_checks import recipe_checks
from homegrown.store.artifacts import Store
from homegrown.util import devices
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Diagnosis:
    """The results of all checks, and the hardware that each recipe needs."""

    checks: list[Check]
    wants: list[Wants]

    @property
    def healthy(self) -> bool:
        """Whether no check is bad."""
        return all(check.verdict != "bad" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain values."""
        return {"healthy": self.healthy, **asdict(self)}


@finding_once()
def diagnose(
    machine: Machine, store: Store, recipes: list[Recipe], recipe: Recipe | None, named: str = ""
) -> Diagnosis:
    """Check the machine, check it for `recipe`, and compute what each of `recipes` needs.

    `named` is the recipe in the arguments of a command, such as `own.yaml`; by default its name.

    Raises:
        UserError: the processes cannot share the batch of the recipe.
    """
    checks = [*machine_checks(machine), *_gpus(machine, recipe), _writable(store.root)]
    if recipe is not None:
        checks += recipe_checks(recipe, machine, wants(recipe, store), store, named or recipe.name)
    found = []
    for one in recipes:
        try:
            found.append(wants(one, store))
        except UserError as error:  # its base or its tokenizer is not here
            checks.append(Check(f"recipe {one.name}", "not ready", "", "warn", str(error)))
    return Diagnosis(checks, found)


def _gpus(machine: Machine, recipe: Recipe | None) -> Iterator[Check]:
    for gpu in machine.gpus:
        found = f"{gpu.name}, {gpu.memory_bytes / 1e9:.1f} GB"
        yield Check("GPU", f"{found}, driver {gpu.driver}" if gpu.driver else found, "none", "ok")
    for kind in dict.fromkeys(gpu.kind for gpu in machine.gpus):
        missing = devices.fallbacks(kind)
        yield Check("fallbacks", "; ".join(missing) or "none", "none", "warn" if missing else "ok")
    if not machine.gpus and (recipe is None or recipe.compute.device in ("auto", "cpu")):
        yield Check("GPU", "none", "none", "ok", "Without one, `tiny` trains in minutes.")


def _writable(root: Path) -> Check:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if os.access(place, os.W_OK):
        return Check("artifacts", str(root), "a writable folder", "ok")
    advice = "Make it writable, or choose another folder with --artifacts."
    return Check("artifacts", f"{place} is not writable", "a writable folder", "bad", advice)
