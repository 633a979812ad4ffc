"""The flow `pretrain`: from raw text to an evaluated model."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.lifetime import after_cancellation, after_crash, begin
from flows.local.prefect_internals import is_random_name
from homegrown.config.addresses import CREDENTIAL
from homegrown.config.finetune_recipe import BaseSettings, VocabularySettings
from homegrown.config.pipelines import change_recipe
from homegrown.config.recipe import Recipe
from homegrown.config.starter import is_external
from homegrown.config.tokens import RowSettings
from homegrown.corpus.sources import finding_once
from homegrown.planning.fit import check_fit, check_packed
from homegrown.planning.machine import this_machine
from homegrown.quantization.requirements import check_recipe
from homegrown.store import runs
from homegrown.store.differences import previous_of, reasons
from homegrown.store.lookup import find_model
from homegrown.store.manifest import Artifact, Order
from homegrown.training import fp8
from homegrown.util.errors import SourceChanged, UserError
from tasks.base import base as import_base
from tasks.dedup import dedup
from tasks.evaluate import evaluate
from tasks.filter import filter_documents
from tasks.ingest import ingest
from tasks.pack import pack
from tasks.pretrain import continue_pretraining
from tasks.pretrain import pretrain as train
from tasks.quantize import quantize
from tasks.replay import replay
from tasks.shard import shard
from tasks.stage import Handle, Run, forget_flow_exception, handle_of, store
from tasks.tokenizer import tokenizer
from tasks.ui.summary import summarized
from tasks.vocabulary import vocabulary


def run_name(what: str) -> str:
    """Return `what` with the current time, unless a person gave a name; a retried run keeps its first name.

    A run of a deployment has the random name that `prefect deployment run` printed instead of the time.
    """
    named: str | None = flow_run.name
    if named and not is_random_name(named):
        return named
    if named and "PREFECT__FLOW_RUN_ID" in os.environ:
        return f"{what}-{named}"
    return f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def recipe_run_name() -> str:
    """Return the name of a run: that of its recipe with the current time."""
    recipe = flow_run.parameters["recipe"]
    return run_name(recipe["name"] if isinstance(recipe, dict) else recipe.name)


StageName = Literal["ingest", "dedup", "filter", "shard", "tokenizer", "pack", "pretrain", "quantize", "evaluate"]
Change = Annotated[
    str,
    Field(
        examples=["training.max_steps=200"],
        json_schema_extra={"not": {"pattern": CREDENTIAL}},  # the server refuses it and stores it nowhere
    ),
]
Made = dict[str, Handle]
Complete = Callable[[Recipe, Handle], Recipe]
"""Returns a recipe with the settings that depend on the text, from the handle of the stage that determines it."""
TEXT_STAGE: StageName = "shard"
"""The stage that determines the training text; later ones use settings that a `Complete` may change."""
BASE, EXTENDED, REPLAY = "base", "vocabulary", "replay"
SWEEP_TAG = "sweep:"
"""Prefix of the tag of a sweep's flow runs; the sweep's name follows."""

CHAIN: dict[StageName, Callable[[Run, Recipe, Made], Handle]] = {
    "ingest": lambda run, recipe, made: _ingest(run, recipe),
    "dedup": lambda run, recipe, made: dedup(run, settings=recipe.dedup, ingest=made["ingest"]),
    "filter": lambda run, recipe, made: filter_documents(run, settings=recipe.filter, dedup=made["dedup"]),
    "shard": lambda run, recipe, made: shard(run, settings=recipe.shard, filter=made["filter"]),
    "tokenizer": lambda run, recipe, made: tokenizer(
        run, settings=recipe.tokenizer, shard=made["shard"], **_base(made)
    ),
    "pack": lambda run, recipe, made: pack(
        run, settings=recipe.pack, rows=recipe.rows, shard=_documents(made), tokenizer=made["tokenizer"]
    ),
    "pretrain": lambda run, recipe, made: _train(run, recipe, made),
    "quantize": lambda run, recipe, made: quantize(
        run, settings=recipe.quantization, pretrain=made["pretrain"], pack=made["pack"]
    ),
    "evaluate": lambda run, recipe, made: evaluate(
        run,
        settings=recipe.evaluation,
        pretrain=made["pretrain"],
        quantize=made["quantize"],
        pack=made["pack"],
        shard=_documents(made),
        tokenizer=made["tokenizer"],
        **_base(made),
        **({"rows": RowSettings(context=recipe.context)} if recipe.base is not None else {}),
    ),
}
"""The stages in order, each with its inputs."""


def _ingest(run: Run, recipe: Recipe) -> Handle:
    """Read the sources, once again if a file changed meanwhile; its new content has another key."""
    try:
        return ingest(run, settings=recipe.ingest)
    except SourceChanged as error:
        get_run_logger().warning("%s It is read again.", error)
        return ingest(run, settings=recipe.ingest)


def _documents(made: Made) -> Handle:
    """Return the documents to train on and to evaluate with."""
    return made.get(REPLAY, made["shard"])


def _base(made: Made) -> Made:
    return {"base": made[BASE]} if BASE in made else {}


def _train(run: Run, recipe: Recipe, made: Made) -> Handle:
    if recipe.adaptation is None:
        return train(
            run, settings=recipe.training, model=recipe.new_model, pack=made["pack"], tokenizer=made["tokenizer"]
        )
    return continue_pretraining(
        run, settings=recipe.training, adaptation=recipe.adaptation, pack=made["pack"], base=made[BASE]
    )


def _find_base(run: Run, base: str) -> Handle:
    """Return the base: an artifact of the store, or a model from elsewhere, imported."""
    if is_external(base):
        return import_base(run, settings=BaseSettings(base=base))
    found = handle_of(find_model(store(), base))
    run.reach(found.key)
    return found


def _extended(run: Run, base: Handle, tokens: list[str]) -> Handle:
    """Return the base with tokens of the user's own."""
    return vocabulary(run, settings=VocabularySettings(special_tokens=tokens, chat=False), base=base)


def stages_until(last: StageName) -> list[StageName]:
    """Return the stages up to `last`."""
    stages = list(CHAIN)
    return stages[: stages.index(last) + 1]


def shown_stages(recipe: Recipe, last: StageName) -> list[str]:
    """Return the stages of a run of the recipe up to `last`: the chain, the stages of its base, and replay."""
    before = [BASE] if recipe.base is not None and is_external(recipe.base) else []
    before += [EXTENDED] if recipe.base is not None and recipe.tokenizer.special_tokens else []
    stages: list[str] = list(stages_until(last))
    if recipe.replay is not None and "pack" in stages:
        stages.insert(stages.index("pack"), REPLAY)
    return [*before, *stages]


def _make(name: str, run: Run, recipe: Recipe, made: Made) -> Handle:
    """Run a stage of the chain, or replay."""
    if name == REPLAY and recipe.replay is not None:
        return replay(
            run,
            settings=recipe.replay,
            reading=recipe.ingest,
            splitting=recipe.shard,
            shard=made["shard"],
            base=made[BASE],
        )
    return next(make for stage, make in CHAIN.items() if stage == name)(run, recipe, made)


def known_until(until: StageName, last: StageName = TEXT_STAGE) -> StageName:
    """Return the last stage up to `until` whose settings no `Complete` changes; it is called after `last`."""
    return last if last in stages_until(until) else until


def check(recipe: Recipe, until: StageName) -> None:
    """Raise UserError if a stage up to `until` surely fails: its base, text or libraries are missing or do not fit."""
    stages = stages_until(until)
    with finding_once():
        check_fit(recipe, store(), stages)
    if "pretrain" in stages and recipe.training.precision == "fp8":
        fp8.check(recipe.training, this_machine().device(recipe.compute.device))
    if "quantize" in stages:
        check_recipe(recipe, store())


def forced_stages(until: StageName, from_stage: StageName | None, force: list[StageName]) -> frozenset[StageName]:
    """Return the cached stages to run again: those from `from_stage` to `until`, and those in `force`.

    Raises:
        UserError: one of them comes after `until`.
    """
    wanted = stages_until(until)
    named: list[StageName] = [*([from_stage] if from_stage else []), *force]
    for name in named:
        if name not in wanted:
            raise UserError(
                f"Stage {name!r} cannot run again: the run stops after {until!r}; set a later stage with --until (in "
                "the UI: until)."
            )
    return frozenset([*force, *(wanted[wanted.index(from_stage) :] if from_stage else [])])


@flow(
    name="pretrain",
    flow_run_name=recipe_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def pretrain(
    *,
    changes: list[Change] = [],  # noqa: B006
    until: StageName = "evaluate",
    from_stage: StageName | None = None,
    force: list[StageName] = [],  # noqa: B006
    recipe: Recipe,
) -> dict[str, Handle]:  # the arguments are in the order of the UI's form
    """Run the stages up to `until`; cached stages are reused.

    Args:
        changes: Settings to change for this run, each as SETTING=VALUE, such as training.max_steps=200; checked before
            the first stage.
        until: Last stage to run.
        from_stage: First stage to run again; all later ones follow, up to `until`.
        force: Cached stages to run again.
        recipe: All settings of the run.
    """
    begin()
    return run_chain(change_recipe(recipe, changes, get_run_logger().warning), until, from_stage, force)


def run_chain(
    recipe: Recipe,
    until: StageName,
    from_stage: StageName | None,
    force: list[StageName],
    complete: Complete | None = None,
    known: StageName = TEXT_STAGE,
) -> dict[str, Handle]:
    """Run the stages of a recipe; the body of the flows that take one.

    `complete` sets what follows from the text, once the stage `known` is made.
    """
    forced = forced_stages(until, from_stage, force)
    made: Made = {}
    sweep = next((tag.removeprefix(SWEEP_TAG) for tag in flow_run.tags if tag.startswith(SWEEP_TAG)), None)
    stages = shown_stages(recipe, until)
    check(recipe, known_until(until, known) if complete else until)
    with (
        summarized(stages),
        runs.ongoing(store(), str(flow_run.name), recipe.model_dump(mode="json"), sweep) as log,
    ):
        run = Run(recipe.seed, recipe.compute, forced, log.reach, partial(why, recipe.name))

        def completed(incomplete: Recipe, handle: Handle) -> Recipe:
            chosen = complete(incomplete, handle) if complete else incomplete
            log.completed(chosen.model_dump(mode="json"))
            check(chosen, until)
            return chosen

        for name, handle in _stages(run, recipe, stages, made, completed if complete else None, known):
            log.made(name, handle.key, handle.folder)
    return made


def _stages(
    run: Run,
    recipe: Recipe,
    stages: list[str],
    made: Made,
    complete: Complete | None = None,
    known: StageName = TEXT_STAGE,
) -> Iterator[tuple[str, Handle]]:
    """Run the stages of a recipe one after the other, add each to `made`, and yield it."""
    if recipe.base is not None:
        made[BASE] = _find_base(run, recipe.base)
        yield BASE, made[BASE]
        if recipe.tokenizer.special_tokens:
            made[BASE] = _extended(run, made[BASE], recipe.tokenizer.special_tokens)
            yield EXTENDED, made[BASE]
    for name in stages:
        if name not in (BASE, EXTENDED):
            made[name] = _make(name, run, recipe, made)
            yield name, made[name]
            if name == "pack" and made[name].folder:
                check_packed(recipe, made[name].path, stages)
            if name == known and complete is not None:
                recipe = complete(recipe, made[name])


def why(recipe: str, order: Order) -> str | None:
    """Return why a stage runs although the last run of its recipe has its artifact."""
    before = previous_of(store(), recipe, order.stage)
    if before is None or not (found := reasons(store(), before.manifest, order)):
        return None
    return f"runs again, because it differs from {before.name}: {', '.join(map(str, found))}."


@dataclass(frozen=True)
class Planned:
    """What a run would do for one stage."""

    stage: str
    key: str
    found: Artifact | None
    """The artifact that it would reuse."""
    before: Artifact | None
    """The artifact that the last run of the recipe used."""
    because: str
    """Why the stage would run; empty for a stage that would not."""


def planned(
    recipe: Recipe,
    until: StageName,
    from_stage: StageName | None,
    force: list[StageName],
    complete: Complete | None = None,
) -> list[Planned]:
    """Return what a run of the recipe would do, without doing it."""
    forced = forced_stages(until, from_stage, force)
    check(recipe, known_until(until) if complete else until)
    found: list[Planned] = []

    def completed(incomplete: Recipe, handle: Handle) -> Recipe:
        chosen = complete(incomplete, handle) if complete else incomplete
        check(chosen, until)
        return chosen

    def plan(order: Order) -> Handle:
        artifact, before = store().find(order.stage, order.key), previous_of(store(), recipe.name, order.stage)
        because = ""
        if order.stage in forced:
            because = "forced"
        elif artifact is None:
            differences = reasons(store(), before.manifest, order) if before else []
            because = ", ".join(map(str, differences)) or ("damaged or deleted" if before else "never made")
        found.append(Planned(order.stage, order.key, None if because else artifact, before, because))
        return Handle(stage=order.stage, folder=artifact.path.name if artifact else "", key=order.key)

    run = Run(recipe.seed, recipe.compute, forced, plan=plan)
    for _ in _stages(run, recipe, shown_stages(recipe, until), {}, completed if complete else None):
        pass
    return found
