"""The flow `pretrain` with a recipe that is chosen for a time, a size or a number of tokens."""

import json
from collections.abc import Sequence
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.adapt import Duration, sources_of
from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import Change, StageName, recipe_run_name, run_chain
from homegrown.config.pipelines import change_recipe
from homegrown.config.recipe import Recipe
from homegrown.config.settings import Address
from homegrown.planning.budget import Budget
from homegrown.planning.gpus import find, require
from homegrown.planning.machine import this_machine
from tasks import dial
from tasks.stage import Handle, forget_flow_exception

_USUAL_TIME = "45m"
"""Of a run whose form has no budget. It is no default of the form: with one, tokens alone would contradict it."""

Amount = Annotated[str, Field(examples=["30M"], max_length=32)]
"""Read by the run, as `Duration`."""


def text_changes(data: Sequence[str]) -> list[str]:
    """Return the changes of a recipe for other text.

    Raises:
        UserError: a path is wrong.
    """
    return [f"ingest.sources={json.dumps([one.model_dump() for one in sources_of(data)])}"] if data else []


@flow(
    name="pretrain",
    flow_run_name=recipe_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def auto(
    *,
    time: Duration | None = None,
    size: Amount | None = None,
    tokens: Amount | None = None,
    gpu: str | None = None,
    data: list[Address] = [],  # noqa: B006
    changes: list[Change] = [],  # noqa: B006
    until: StageName = "evaluate",
    from_stage: StageName | None = None,
    force: list[StageName] = [],  # noqa: B006
    recipe: Recipe,
) -> dict[str, Handle]:  # the arguments are in the order of the UI's form
    """Choose the best recipe for a budget and run its stages up to `until`; cached stages are reused.

    Args:
        time: Duration of the training, such as 45m or 1h30m; 45m without size and tokens.
        size: Parameters of the model, such as 30M; by default those with the lowest loss in the time.
        tokens: Tokens to train on, such as 100M, instead of a time.
        gpu: GPU whose specification replaces the measurement of this machine, such as h100; the machine must have it.
        data: Paths or addresses of text instead of the recipe's sources.
        changes: Settings to change for this run, each as SETTING=VALUE; those of model, training and tokenizer
            replace the chosen ones.
        until: Last stage to run.
        from_stage: First stage to run again; all later ones follow, up to `until`.
        force: Cached stages to run again.
        recipe: All other settings of the run; the chosen model, vocabulary and training replace its own.
    """
    begin()
    time = _USUAL_TIME if time is None and size is None and tokens is None else time
    budget, chosen = Budget.of(time, size, tokens), None if gpu is None else find(gpu)
    if chosen is not None:
        require(chosen, this_machine())
    before, after = dial.split(changes)
    incomplete = change_recipe(change_recipe(recipe, text_changes(data)), before)
    incomplete = dial.sampled(incomplete, budget, after, dial.note, chosen)
    with dial.paced() as shown:
        return run_chain(incomplete, until, from_stage, force, dial.choose(budget, after, shown, dial.note, chosen))
