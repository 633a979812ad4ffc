"""The choice of a recipe for a budget, shown in the terminal and on a page of the run."""

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from homegrown.config.pipelines import change_recipe
from homegrown.config.recipe import Recipe
from homegrown.evaluation.starter_score import starter_score
from homegrown.planning import adaptation_dial, scaling_rules
from homegrown.planning.budget import Budget, seconds_of
from homegrown.planning.compute import config_of
from homegrown.planning.dial import Choice, Dialed, dial, sample_share, table
from homegrown.planning.gpus import Gpu, machine_with
from homegrown.planning.machine import Machine, this_machine
from homegrown.planning.scaling_rules import WIDTH_PER_LAYER
from homegrown.planning.speed import Speed, specified, speed_of, step_time_of
from homegrown.planning.text import text_of
from homegrown.planning.text_facts import TextFacts, estimated, facts
from homegrown.reporting.blocks import table_as_markdown
from homegrown.reporting.numbers import duration, file_size
from homegrown.reporting.terminal import print_table
from homegrown.util.errors import UserError
from homegrown.util.progress import Metric
from tasks.stage import Handle, artifact_of, store
from tasks.ui.events import Event, emit, listening
from tasks.ui.figures import SECONDS_LEFT

_TRAINING = "training."
_AFTER = ("model.", _TRAINING, "tokenizer.")
"""Groups of settings that the dial chooses; a user's changes of them come after it."""
_PROCESSES, _BATCH, _PASSES = "compute.processes", "training.batch_size", "training.micro_batch_size"
_LARGE = 50e6
"""Bytes of text from which a share of the documents may be enough."""
_SLOW, _SLOWER, _SETTLED = 1.25, 1.5, 20.0
"""Ratio to the expected time from which a training is reported as slow, ratio to the last report for another one, and
seconds until its speed is known."""
_OF_WIDTH = ("model.heads", "model.kv_heads", "model.feed_forward")
"""Settings that follow a changed width, unless they are changed too."""


def split(changes: list[str]) -> tuple[list[str], list[str]]:
    """Return the changes to make before the choice, and those to make to its result.

    The batch before the choice is one for any number of processes; the choice has another.
    """
    after = [change for change in changes if change.strip().startswith(_AFTER)]
    before = [change for change in changes if change not in after]
    processes = [value for name, _, value in (one.partition("=") for one in before) if name.strip() == _PROCESSES]
    if processes and processes[-1].strip().isdecimal() and int(processes[-1]):
        before += [f"{_BATCH}={processes[-1]}", f"{_PASSES}=auto"]
    return before, after


def _following(changes: list[str], note: Callable[[str], None]) -> list[str]:
    """Return the changes with what follows a changed width or batch alone: heads and feed-forward layers, or passes."""
    values = {name.strip(): value.strip() for name, _, value in (change.partition("=") for change in changes)}
    more, width = [], values.get("model.hidden", "")
    if width.isdecimal() and int(width) and not int(width) % WIDTH_PER_LAYER and not values.keys() & set(_OF_WIDTH):
        shape = scaling_rules.shape(int(width) // WIDTH_PER_LAYER)
        more += [f"{name}={getattr(shape, name.partition('.')[2])}" for name in _OF_WIDTH]
    if _BATCH in values and _PASSES not in values:
        more.append(f"{_PASSES}=auto")
    if more:
        note(f"{', '.join(more)}: to fit the changes; set them to change that.")
    return [*changes, *more]


def choose(
    budget: Budget,
    changes: list[str],
    shown: Callable[[Dialed], None],
    note: Callable[[str], None],
    gpu: Gpu | None = None,
) -> Callable[[Recipe, Handle], Recipe]:
    """Return what completes a recipe once its text is known: the choice for the budget, with `changes` made to it.

    Without an artifact of the text, as in a dry run, its size is estimated. `note` gets what follows from `changes`,
    and that the speed is measured.
    The figures of a `gpu` replace the measurement of this machine.

    Raises:
        UserError: when called, if the recipe is for the CPU and a `gpu` is given, or nothing fits the budget.
    """

    def complete(recipe: Recipe, shards: Handle) -> Recipe:
        speed, machine = _speed(recipe, changes, note, gpu)

        def change(chosen: Recipe) -> Recipe:
            return change_recipe(chosen, _following(changes, note), note)

        found = dial(recipe, budget, _facts(recipe, shards), speed, machine, gpu, change)
        if shards.folder:
            found = found.without(_dropped(shards))
            if (score := starter_score(store(), shards.path, note)) is not None:
                found = found.beside(score, starter_command(recipe, budget))
        shown(found)
        return found.recipe

    return complete


def choose_steps(
    time: str, changes: list[str], shown: Callable[[Choice], None], note: Callable[[str], None]
) -> Callable[[Recipe, Handle], Recipe]:
    """Return what completes the recipe of an adaptation once its tokens are packed: as many steps as `time` allows.

    Those of `changes`, which the recipe has, that concern the training are made to the result as well. `note` reports
    that the speed is measured.

    Raises:
        UserError: at once, if `time` is not a duration; when called, if it is too short.
    """
    seconds = seconds_of(time)

    def complete(recipe: Recipe, packed: Handle) -> Recipe:
        config = config_of(recipe, store())
        step = step_time_of(store(), recipe, config, this_machine(), note)
        tokens = int(artifact_of(packed).manifest.metrics["train_tokens"])
        own = [change for change in changes if change.strip().startswith(_TRAINING)]
        found = adaptation_dial.dial(recipe, seconds, tokens, config, step, lambda one: change_recipe(one, own))
        shown(found)
        return found.recipe

    return complete


def starter_command(recipe: Recipe, budget: Budget) -> str:
    """Return the command that trains the starter on the text of a recipe, in the same time."""
    paths = [one.path for one in recipe.ingest.sources if one.kind == "files"]
    time = [] if budget.seconds is None else ["--time", f"{budget.seconds / 60:g}m"]
    return shlex.join(["homegrown", "adapt", "starter", *(part for path in paths for part in ("--data", path)), *time])


def sampled(
    recipe: Recipe, budget: Budget, changes: list[str], note: Callable[[str], None], gpu: Gpu | None = None
) -> Recipe:
    """Return the recipe with a share of the documents of its files, if they are much more than the budget can read.

    Sources that have a share or a limit keep it. `note` gets the share; other arguments are those of `choose`.
    """
    size = text_of(store(), recipe, recipe.tokenizer.vocabulary_size).bytes
    sources = recipe.ingest.sources
    unlimited = [one for one in sources if one.kind == "files" and one.weight == 1 and one.limit_mb is None]
    if size is None or size < _LARGE or not unlimited:
        return recipe
    share = sample_share(size, recipe, budget, *_speed(recipe, changes, note, gpu))
    if share == 1:
        return recipe
    note(
        f"Of the {file_size(size)} of text, {share:.2g} of the documents are used: the training reads no more. Set "
        "ingest.sources to change that."
    )
    sources = [one.model_copy(update={"weight": share}) if one in unlimited else one for one in sources]
    return recipe.model_copy(update={"ingest": recipe.ingest.model_copy(update={"sources": sources})})


def _speed(recipe: Recipe, changes: list[str], note: Callable[[str], None], gpu: Gpu | None) -> tuple[Speed, Machine]:
    """Return the speed and the machine to choose for: this one, or one with the `gpu`."""
    machine = this_machine()
    if gpu is None:
        precision = [change for change in changes if change.strip().startswith("training.precision")]
        return speed_of(store(), change_recipe(recipe, precision), machine, note), machine
    if recipe.compute.device == "cpu":
        raise UserError("compute.device is 'cpu', but --gpu names a GPU; leave one of the two out.")
    return specified(gpu), machine_with(gpu, recipe.compute.processes, machine)


def _facts(recipe: Recipe, shards: Handle) -> TextFacts:
    if not shards.folder:
        return estimated(store(), recipe)
    return facts(shards.path, int(artifact_of(shards).manifest.metrics["train_bytes"]))


def _dropped(shards: Handle) -> dict[str, int]:
    """Return how many documents each stage up to the shards dropped; for ingest, how many it put into quarantine."""
    last = artifact_of(shards)
    made = [one.manifest for one in reversed([last, *store().lineage(last)])]
    return {manifest.stage: manifest.rows_in - manifest.rows_out for manifest in made}


def show(found: Choice) -> None:
    """Print the choice and post it as a page of the run."""
    chosen = table(found)
    print_table(chosen)
    create_markdown_artifact(table_as_markdown(chosen), "dial", f"{found.recipe.name}: what was chosen, and why")


@contextmanager
def paced() -> Iterator[Callable[[Choice], None]]:
    """Yield what shows a choice; within the block, its training is compared with it."""
    pace = Pace()

    def shown(found: Choice) -> None:
        show(found)
        pace.expect(found)

    with listening(pace):
        yield shown


class Pace:
    """Reports how a training compares with the choice: a listener of the events of its run.

    While it trains, it reports a time that is much longer than expected; at its end, time and loss.
    """

    def __init__(self) -> None:
        self._log = get_run_logger()
        self._expected: Choice | None = None
        self._began, self._most = 0.0, math.inf

    def expect(self, found: Choice) -> None:
        """Compare with a choice from now on."""
        self._expected, self._most = found, _SLOW * found.seconds

    def __call__(self, event: Event) -> None:
        """Take an event of the run."""
        if self._expected is None or event.stage != "pretrain":
            return
        if event.kind == "started":
            self._began = time.monotonic()
        elif event.kind == "progress":
            self._compare(event, self._expected, time.monotonic() - self._began)
        elif event.kind == "made" and event.artifact is not None:
            self._conclude(event.artifact.manifest.metrics, self._expected)

    def _compare(self, event: Event, expected: Choice, elapsed: float) -> None:
        left = event.metrics.get(SECONDS_LEFT)
        if not event.total or event.done >= event.total or not isinstance(left, int | float) or elapsed < _SETTLED:
            return
        total = left / (1 - event.done / event.total)  # of all steps at this speed, also of those before a resumption
        if total < self._most:
            return
        self._most = _SLOWER * total
        self._report(
            f"At this speed the training takes {duration(total)}, not the expected {duration(expected.seconds)}: other "
            "programs may use the processors. A stopped run resumes by the same command."
        )

    def _conclude(self, metrics: Mapping[str, Metric], expected: Choice) -> None:
        seconds = float(metrics["seconds"]) + float(metrics["seconds_to_first_step"])
        bits = float(metrics["validation_bits_per_byte"])
        promised = f" and {expected.expected_loss}" if isinstance(expected, Dialed) else ""
        self._report(
            f"Trained in {duration(seconds)} to {bits:.2f} bits per byte of validation text; expected were "
            f"{duration(expected.seconds)}{promised}."
        )

    def _report(self, message: str) -> None:
        self._log.warning("pretrain: %s", message)
        emit(Event("pretrain", "note", message=message))


def note(message: str) -> None:
    """Print a message and add it to the log of the run."""
    print(message)
    get_run_logger().warning(message)
