"""The flow `finetune`: from a model and conversations to a model that answers, evaluated before and after."""

from collections.abc import Sequence

from prefect import flow
from prefect.runtime import flow_run

from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import Change, recipe_run_name
from homegrown.config.finetune_recipe import BaseSettings, ConversationRows, FinetuneRecipe, VocabularySettings
from homegrown.config.pipelines import change_recipe
from homegrown.config.starter import is_external
from homegrown.finetuning.tuning import check
from homegrown.model.weights import load_config
from homegrown.quantization.requirements import check_requirements
from homegrown.store import runs
from homegrown.store.lookup import find_model
from homegrown.util.errors import UserError
from tasks.answers import answers
from tasks.base import base as read_base
from tasks.finetune import finetune as train
from tasks.instructions import instructions
from tasks.merge import merge
from tasks.quantize import quantize
from tasks.stage import Handle, Run, forget_flow_exception, handle_of, store
from tasks.ui.summary import summarized
from tasks.vocabulary import vocabulary


def stages_of(recipe: FinetuneRecipe) -> list[str]:
    """Return the stages of a run of the recipe, in order."""
    return [
        *(["base"] if is_external(recipe.base) else []),
        *(["vocabulary"] if _missing(recipe) else []),
        *("instructions", "finetune"),
        *(["merge"] if recipe.finetuning.method != "full" else []),
        *(["quantize"] if recipe.quantization.variants else []),
        "answers",
    ]


def _missing(recipe: FinetuneRecipe) -> VocabularySettings | None:
    """Return the tokens that the base lacks, None if it lacks none."""
    from homegrown.export.bases import has_chat_format

    tokens, chat = recipe.tokenizer.special_tokens, not has_chat_format(recipe.base, store())
    return VocabularySettings(special_tokens=tokens, chat=chat) if tokens or chat else None


def check_base(recipe: FinetuneRecipe) -> None:
    """Check that the base exists and fits the recipe.

    Raises:
        UserError: it does not, or a library is not installed.
    """
    if is_external(recipe.base):
        from homegrown.export.bases import config_of

        config = config_of(recipe.base)
    else:
        config = load_config(find_model(store(), recipe.base).path / "model" / "config.json")
    check(config, recipe.finetuning)
    check_requirements(recipe.quantization.variants, config)


@flow(
    name="finetune",
    flow_run_name=recipe_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def finetune(
    *,
    changes: list[Change] = [],  # noqa: B006
    base: str | None = None,
    force: list[str] = [],  # noqa: B006
    recipe: FinetuneRecipe,
) -> dict[str, Handle]:
    """Fine-tune a model; cached stages are reused.

    Args:
        changes: Settings to change for this run, each as SETTING=VALUE, such as training.max_steps=200; checked before
            the first stage.
        base: Base model instead of the recipe's: pretrain@3, finetune@1, a key, a folder, a GGUF file or starter.
        force: Cached stages to run again.
        recipe: All settings of the run.
    """
    begin()
    recipe = change_recipe(recipe, [*changes, *([f"base={base}"] if base else [])])
    stages = stages_of(recipe)
    check_force(stages, force)
    check_base(recipe)
    with (
        summarized(stages),
        runs.ongoing(store(), str(flow_run.name), recipe.model_dump(mode="json")) as log,
    ):
        return _run(recipe, Run(recipe.seed, recipe.compute, frozenset(force), log.reach), log)


def check_force(stages: Sequence[str], force: Sequence[str]) -> None:
    """Raise UserError if a name in `force` is not a stage of the run."""
    for name in force:
        if name not in stages:
            raise UserError(f"Stage {name!r} does not exist in this run; its stages are: {', '.join(stages)}.")


def _run(recipe: FinetuneRecipe, run: Run, log: runs.Ongoing) -> dict[str, Handle]:
    made: dict[str, Handle] = {}

    def add(handle: Handle) -> Handle:
        made[handle.stage] = handle
        log.made(handle.stage, handle.key, handle.folder)
        return handle

    if is_external(recipe.base):
        begin = add(read_base(run, settings=BaseSettings(base=recipe.base)))
    else:
        begin = handle_of(find_model(store(), recipe.base))
        run.reach(begin.key)
    if missing := _missing(recipe):
        begin = add(vocabulary(run, settings=missing, base=begin))
    context = load_config(begin.path / "model" / "config.json").context
    rows = ConversationRows(context=context, sequence_length=recipe.training.sequence_length)
    learned = add(instructions(run, settings=recipe.instructions, rows=rows, tokenizer=begin))
    tuned = add(train(run, settings=recipe.finetuning, training=recipe.training, base=begin, instructions=learned))
    model = tuned
    if recipe.finetuning.method != "full":
        model = add(merge(run, base=begin, instructions=learned, finetune=tuned))
    if recipe.quantization.variants:
        add(quantize(run, settings=recipe.quantization, pretrain=model, pack=learned))
    add(answers(run, settings=recipe.evaluation, base=begin, model=model, finetune=tuned, instructions=learned))
    return made
