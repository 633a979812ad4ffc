"""The flow `dpo`: from a model and pairs of answers to a model that prefers the better ones, before and after."""

from functools import partial

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.finetune import Made, check_base, check_force, context_of, finish, first_stages, last_stages, start
from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import Change, recipe_run_name, why
from homegrown.config.finetune_recipe import ConversationRows, DpoRecipe, ReferenceSettings
from homegrown.config.pipelines import change_recipe
from homegrown.store import runs
from tasks.dpo import dpo as train
from tasks.preferences import preferences
from tasks.stage import Handle, Run, forget_flow_exception, store
from tasks.ui.summary import summarized
from tasks.win_rate import win_rate


def stages_of(recipe: DpoRecipe) -> list[str]:
    """Return the stages of a run of the recipe, in order."""
    return [*first_stages(recipe), "preferences", "dpo", *last_stages(recipe), "win-rate"]


@flow(
    name="dpo",
    flow_run_name=recipe_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def dpo(
    *,
    changes: list[Change] = [],  # noqa: B006
    base: str | None = None,
    force: list[str] = [],  # noqa: B006
    recipe: DpoRecipe,
) -> dict[str, Handle]:
    """Train a model on preferences; cached stages are reused.

    Args:
        changes: Settings to change for this run, each as SETTING=VALUE, such as dpo.beta=0.2; checked before the first
            stage.
        base: Base model instead of the recipe's: finetune@1, pretrain@3, a key, a folder, a GGUF file or starter.
        force: Cached stages to run again.
        recipe: All settings of the run.
    """
    begin()
    recipe = change_recipe(recipe, [*changes, *([f"base={base}"] if base else [])], get_run_logger().warning)
    stages = stages_of(recipe)
    check_force(stages, force)
    check_base(recipe)
    with (
        summarized(stages),
        runs.ongoing(store(), str(flow_run.name), recipe.model_dump(mode="json")) as log,
    ):
        run = Run(recipe.seed, recipe.compute, frozenset(force), log.reach, partial(why, recipe.name))
        return _run(recipe, run, Made(log))


def _run(recipe: DpoRecipe, run: Run, made: Made) -> dict[str, Handle]:
    begin = start(recipe, run, made)
    rows = ConversationRows(context=context_of(begin), sequence_length=recipe.training.sequence_length)
    reference = ReferenceSettings(method=recipe.finetuning.method, precision=recipe.training.precision)
    pairs = made.add(preferences(run, settings=recipe.preferences, rows=rows, reference=reference, base=begin))
    tuned = made.add(
        train(
            run,
            settings=recipe.finetuning,
            training=recipe.training,
            objective=recipe.dpo,
            base=begin,
            preferences=pairs,
        )
    )
    model = finish(recipe, run, made, base=begin, data=pairs, tuned=tuned)
    made.add(
        win_rate(
            run,
            settings=recipe.evaluation,
            objective=recipe.dpo,
            base=begin,
            model=model,
            dpo=tuned,
            preferences=pairs,
        )
    )
    return made.handles
