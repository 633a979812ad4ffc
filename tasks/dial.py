"""The choice of a recipe for a budget, shown in the terminal and on a page of the run."""

from collections.abc import Callable

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from homegrown.config.pipelines import change_recipe
from homegrown.config.recipe import Recipe
from homegrown.planning.dial import Budget, Dialed, TextFacts, dial, estimated, facts, table
from homegrown.planning.gpus import Gpu, machine_with
from homegrown.planning.machine import this_machine
from homegrown.planning.speed import specified, speed_of
from homegrown.reporting.blocks import table_as_markdown
from homegrown.reporting.terminal import print_table
from homegrown.util.errors import UserError
from tasks.stage import Handle, artifact_of, store

_AFTER = ("model.", "training.", "tokenizer.")
"""Groups of settings that the dial chooses; a user's changes of them come after it."""


def split(changes: list[str]) -> tuple[list[str], list[str]]:
    """Return the changes to make before the choice, and those to make to its result."""
    after = [change for change in changes if change.strip().startswith(_AFTER)]
    return [change for change in changes if change not in after], after


def choose(
    budget: Budget,
    changes: list[str],
    shown: Callable[[Dialed], None],
    note: Callable[[str], None],
    gpu: Gpu | None = None,
) -> Callable[[Recipe, Handle], Recipe]:
    """Return what completes a recipe once its text is known: the choice for the budget, with `changes` made to it.

    Without an artifact of the text, as in a dry run, its size is estimated. `note` gets what follows from `changes`.
    The figures of a `gpu` replace the measurement of this machine.

    Raises:
        UserError: when called, if the recipe is for the CPU and a `gpu` is given, or nothing fits the budget.
    """

    def complete(recipe: Recipe, shards: Handle) -> Recipe:
        machine = this_machine()
        if gpu is not None:
            if recipe.compute.device == "cpu":
                raise UserError("compute.device is 'cpu', but --gpu names a GPU; leave one of the two out.")
            machine = machine_with(gpu, recipe.compute.processes, machine)
            found = dial(recipe, budget, _facts(recipe, shards), specified(gpu), machine, gpu)
            shown(found)
            return change_recipe(found.recipe, changes, note)
        precision = [change for change in changes if change.strip().startswith("training.precision")]
        speed = speed_of(store(), change_recipe(recipe, precision), machine)
        found = dial(recipe, budget, _facts(recipe, shards), speed, machine)
        shown(found)
        return change_recipe(found.recipe, changes, note)

    return complete


def _facts(recipe: Recipe, shards: Handle) -> TextFacts:
    if not shards.folder:
        return estimated(store(), recipe)
    return facts(shards.path, int(artifact_of(shards).manifest.metrics["train_bytes"]))


def show(found: Dialed) -> None:
    """Print the choice and post it as a page of the run."""
    chosen = table(found)
    print_table(chosen)
    create_markdown_artifact(table_as_markdown(chosen), "dial", f"{found.recipe.name}: what was chosen, and why")


def note(message: str) -> None:
    """Print a message and add it to the log of the run."""
    print(message)
    get_run_logger().warning(message)
