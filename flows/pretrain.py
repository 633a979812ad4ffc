"""The main job: from raw text to an evaluated model."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from prefect import flow
from prefect.runtime import flow_run

from flows.lifetime import after_cancellation, after_crash, watch_over
from homegrown import runs
from homegrown.recipe import Recipe
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

StageName = Literal["ingest", "dedup", "filter", "shard", "tokenizer", "pack", "pretrain", "quantize", "evaluate"]
Made = dict[str, Handle]

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
    "quantize": lambda run, recipe, made: quantize(run, settings=recipe.quantization, pretrain=made["pretrain"]),
    "evaluate": lambda run, recipe, made: evaluate(
        run,
        settings=recipe.evaluation,
        pretrain=made["pretrain"],
        quantize=made["quantize"],
        pack=made["pack"],
        tokenizer=made["tokenizer"],
    ),
}
"""The stages in their order, each with what it takes."""


def _run_name() -> str:
    recipe = flow_run.parameters["recipe"]
    name = recipe["name"] if isinstance(recipe, dict) else recipe.name
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@flow(
    name="pretrain",
    flow_run_name=_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def pretrain(recipe: Recipe, until: StageName = "evaluate", force: list[StageName] = []) -> dict[str, Handle]:  # noqa: B006
    """Run the stages up to `until`; what is already made is taken as it is, but for the stages in `force`.

    Args:
        recipe: The whole recipe, from raw text to the evaluation table.
        until: The last stage to run.
        force: Stages to run again although an artifact with their key is there.
    """
    watch_over(store(), UUID(str(flow_run.id)))
    run = Run(recipe.seed, recipe.compute, frozenset(force))
    made: Made = {}
    started = datetime.now(UTC)
    for name, stage in CHAIN.items():
        made[name] = stage(run, recipe, made)
        finished = datetime.now(UTC) if name == until else None
        reached = runs.RunRecord(
            recipe=recipe.model_dump(mode="json"),
            started=started,
            finished=finished,
            keys={stage: handle.key for stage, handle in made.items()},
        )
        runs.record(store(), str(flow_run.name), reached)
        if name == until:
            break
    return made
