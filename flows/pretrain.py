"""The main job: from raw text to an evaluated model."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.lifetime import after_cancellation, after_crash, watch_over
from flows.local.children import end_with_worker
from homegrown.config.addresses import CREDENTIAL
from homegrown.config.pipelines import change_recipe
from homegrown.config.recipe import Recipe
from homegrown.quantization.requirements import check_recipe
from homegrown.store import runs
from homegrown.util.errors import UserError
from tasks.dedup import dedup
from tasks.evaluate import evaluate
from tasks.filter import filter_documents
from tasks.ingest import ingest
from tasks.pack import pack
from tasks.pretrain import pretrain as train
from tasks.quantize import quantize
from tasks.shard import shard
from tasks.stage import Handle, Run, forget_flow_exception, store
from tasks.tokenizer import tokenizer
from tasks.ui.story import told


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


StageName = Literal["ingest", "dedup", "filter", "shard", "tokenizer", "pack", "pretrain", "quantize", "evaluate"]
Change = Annotated[
    str,
    Field(
        pattern=r"^\s*[A-Za-z_][\w.]*\s*=",
        examples=["training.max_steps=200"],
        json_schema_extra={"not": {"pattern": CREDENTIAL}},  # so that the server refuses it, and keeps it nowhere
    ),
]
Made = dict[str, Handle]
SWEEP_TAG = "sweep:"
"""What the tag of a flow run begins with that is part of a sweep; the sweep's name follows."""

CHAIN: dict[StageName, Callable[[Run, Recipe, Made], Handle]] = {
    "ingest": lambda run, recipe, made: ingest(run, settings=recipe.ingest),
    "dedup": lambda run, recipe, made: dedup(run, settings=recipe.dedup, ingest=made["ingest"]),
    "filter": lambda run, recipe, made: filter_documents(run, settings=recipe.filter, dedup=made["dedup"]),
    "shard": lambda run, recipe, made: shard(run, settings=recipe.shard, filter=made["filter"]),
    "tokenizer": lambda run, recipe, made: tokenizer(run, settings=recipe.tokenizer, shard=made["shard"]),
    "pack": lambda run, recipe, made: pack(
        run, settings=recipe.pack, rows=recipe.rows, shard=made["shard"], tokenizer=made["tokenizer"]
    ),
    "pretrain": lambda run, recipe, made: train(
        run, settings=recipe.training, model=recipe.model, pack=made["pack"], tokenizer=made["tokenizer"]
    ),
    "quantize": lambda run, recipe, made: quantize(
        run, settings=recipe.quantization, pretrain=made["pretrain"], pack=made["pack"]
    ),
    "evaluate": lambda run, recipe, made: evaluate(
        run,
        settings=recipe.evaluation,
        pretrain=made["pretrain"],
        quantize=made["quantize"],
        pack=made["pack"],
        shard=made["shard"],
        tokenizer=made["tokenizer"],
    ),
}
"""The stages in their order, each with what it takes."""


def again(until: StageName, from_stage: StageName | None, force: list[StageName]) -> frozenset[StageName]:
    """Return the stages to run although they are cached: those from `from_stage` to `until`, and those in `force`.

    Raises:
        UserError: one of them comes after `until`, so that the run would never get there.
    """
    stages = list(CHAIN)
    wanted = stages[: stages.index(until) + 1]
    named: list[StageName] = [*([from_stage] if from_stage else []), *force]
    for name in named:
        if name not in wanted:
            raise UserError(
                f"The stage {name!r} is to run again, but the run ends with {until!r}, before it: choose a later end "
                "(--until, in the UI `until`)."
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
) -> dict[str, Handle]:
    """Run the stages up to `until`; what is already made is taken as it is, but for what is asked to run again.

    The arguments stand in the order of the UI's form, in which the recipe is long.

    Args:
        changes: Settings to change in the recipe for this run, each as SETTING=VALUE, such as training.max_steps=200.
            A name or a value that does not fit is refused before any stage runs.
        until: The last stage to run.
        from_stage: Run this stage and all after it again, up to `until`.
        force: Stages to run again although an artifact with their key is there.
        recipe: The whole recipe, from raw text to the evaluation table.
    """
    end_with_worker()
    watch_over(store(), UUID(str(flow_run.id)))
    recipe = change_recipe(recipe, changes)
    forced = again(until, from_stage, force)
    made: Made = {}
    sweep = next((tag.removeprefix(SWEEP_TAG) for tag in flow_run.tags if tag.startswith(SWEEP_TAG)), None)
    stages = list(CHAIN)
    if stages.index(until) >= stages.index("quantize"):
        check_recipe(recipe)
    with (
        told(stages[: stages.index(until) + 1]),
        runs.ongoing(store(), str(flow_run.name), recipe.model_dump(mode="json"), sweep) as log,
    ):
        run = Run(recipe.seed, recipe.compute, forced, log.reach)
        for name, stage in CHAIN.items():
            made[name] = stage(run, recipe, made)
            log.made(name, made[name].key, made[name].folder)
            if name == until:
                break
    return made
