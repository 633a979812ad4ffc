"""The flow `finetune`: from a model and conversations to a model that answers, evaluated before and after."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import Change, recipe_run_name, why
from homegrown.config.finetune_recipe import (
    BaseSettings,
    ConversationRows,
    FinetuneRecipe,
    TuningRecipe,
    VocabularySettings,
)
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
    return [*first_stages(recipe), "instructions", "finetune", *last_stages(recipe), "answers"]


def first_stages(recipe: TuningRecipe) -> list[str]:
    """Return the stages that make the base of a run."""
    return [*(["base"] if is_external(recipe.base) else []), *(["vocabulary"] if _missing(recipe) else [])]


def last_stages(recipe: TuningRecipe) -> list[str]:
    """Return the stages between training and its evaluation."""
    return [
        *(["merge"] if recipe.finetuning.method != "full" else []),
        *(["quantize"] if recipe.quantization.variants else []),
    ]


def _missing(recipe: TuningRecipe) -> VocabularySettings | None:
    """Return the tokens that the base lacks, None if it lacks none."""
    from homegrown.export.bases import has_chat_format

    tokens, chat = recipe.tokenizer.special_tokens, not has_chat_format(recipe.base, store())
    return VocabularySettings(special_tokens=tokens, chat=chat) if tokens or chat else None


def check_base(recipe: TuningRecipe) -> None:
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


def check_force(stages: Sequence[str], force: Sequence[str]) -> None:
    """Raise UserError if a name in `force` is not a stage of the run."""
    for name in force:
        if name not in stages:
            raise UserError(f"Stage {name!r} does not exist in this run; its stages are: {', '.join(stages)}.")


@dataclass
class Made:
    """The artifacts of a run so far, by stage, and its record."""

    log: runs.Ongoing
    handles: dict[str, Handle] = field(default_factory=dict)

    def add(self, handle: Handle) -> Handle:
        """Record an artifact."""
        self.handles[handle.stage] = handle
        self.log.made(handle.stage, handle.key, handle.folder)
        return handle


def start(recipe: TuningRecipe, run: Run, made: Made) -> Handle:
    """Return the base of a run, imported if it is from elsewhere, with the tokens that it lacks."""
    if is_external(recipe.base):
        begin = made.add(read_base(run, settings=BaseSettings(base=recipe.base)))
    else:
        begin = handle_of(find_model(store(), recipe.base))
        run.reach(begin.key)
    if missing := _missing(recipe):
        begin = made.add(vocabulary(run, settings=missing, base=begin))
    return begin


def context_of(model: Handle) -> int:
    """Return the context of a model."""
    return load_config(model.path / "model" / "config.json").context


def finish(recipe: TuningRecipe, run: Run, made: Made, *, base: Handle, data: Handle, tuned: Handle) -> Handle:
    """Return the complete model of a run: merged if `tuned` is an adapter, with its variants."""
    model = tuned
    if recipe.finetuning.method != "full":
        model = made.add(merge(run, base=base, instructions=data, finetune=tuned))
    if recipe.quantization.variants:
        made.add(quantize(run, settings=recipe.quantization, pretrain=model, pack=data))
    return model


def _run(recipe: FinetuneRecipe, run: Run, made: Made) -> dict[str, Handle]:
    begin = start(recipe, run, made)
    rows = ConversationRows(context=context_of(begin), sequence_length=recipe.training.sequence_length)
    learned = made.add(instructions(run, settings=recipe.instructions, rows=rows, tokenizer=begin))
    tuned = made.add(train(run, settings=recipe.finetuning, training=recipe.training, base=begin, instructions=learned))
    model = finish(recipe, run, made, base=begin, data=learned, tuned=tuned)
    made.add(answers(run, settings=recipe.evaluation, base=begin, model=model, finetune=tuned, instructions=learned))
    return made.handles
