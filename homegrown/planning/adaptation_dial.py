"""The dial of `homegrown adapt --time`: how much of a text a base model is trained on in a time."""

import math
from collections.abc import Callable

from homegrown.config.recipe import Recipe
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import adapter_of, trained_parameters
from homegrown.planning.dial import Choice, Reason
from homegrown.planning.speed import StepTime
from homegrown.reporting.numbers import count, duration
from homegrown.util.errors import UserError

MOST_READINGS = 2.0
"""Most readings of the text: a novel of 320 kB has 1.239 bits per byte before, 1.141 after 1.1 readings at a rate of
2e-3, 1.138 after 2.0, and 1.145 after 3.4 at 1e-3 (benchmarks/results/adapting.csv, `benchmarks.adapt_rules`)."""
_RATE, _RATE_STEPS, _LEAST_RATE, _WIDTH = 2e-3, 70, 1e-3, 576
"""The rate of an adapter up to so many steps, its least, and the width of the base that was measured. The novel has
1.152, 1.141 and 1.137 after 40 steps at 1e-3, 2e-3 and 4e-3; documentation 0.870 after 100 at 1e-3 and 4e-3, which
forgets more; after 120 steps at 4e-3 the novel has 1.319, and a general text 1.356 instead of 1.202."""
LEAST_STEPS = 10
_WARM_UP, _MOST_WARM_UP = 10, 10
"""Steps for each one of the warm-up, and its most."""
_VALIDATED_EVERY, _MOST_VALIDATIONS = 15, 10
"""Steps for each validation, and the most of them."""
_FORWARD_SHARE = {True: 1 / 2, False: 1 / 3}
"""Share of a validation in the operations of a training step, with frozen weights and without: these have no gradient
of their own."""
_VALIDATION_SHARE, _VALIDATION_TOKENS = 1 / 20, (8000, 50_000)
"""Tokens of a validation as a share of the training, and their least and most."""


def dial(
    recipe: Recipe,
    seconds: float,
    tokens: int,
    config: ModelConfig,
    step: StepTime,
    change: Callable[[Recipe], Recipe] = lambda chosen: chosen,
) -> Choice:
    """Return the recipe with as many steps as the time allows on a text of so many `tokens`, and then changed.

    `config` is that of the base in the training context, `step` the time of the recipe's steps. The batch is the
    recipe's, and so is the rate where all weights are trained.

    Raises:
        UserError: the time is too short for the fewest steps, or the text for one.
    """
    frozen, step_tokens = adapter_of(recipe) is not None, recipe.training.batch_size * config.context
    most = math.floor(MOST_READINGS * tokens / step_tokens)
    if most < 1:
        raise UserError(
            f"The text is too little: {MOST_READINGS:g} readings of its {tokens:,} tokens are less than one step of "
            f"{step_tokens:,}; add text, or lower training.batch_size."
        )
    fewest = min(most, LEAST_STEPS)

    def with_steps(steps: int) -> tuple[TrainingSettings, float]:
        training = _training(recipe.training, steps, step_tokens)
        if frozen:
            rate = learning_rate(config.hidden, steps)
            training = training.model_copy(update={"learning_rate": rate})
        return training, _seconds(training, config, step, frozen=frozen)

    needed = with_steps(fewest)[1]
    if needed > seconds:
        raise UserError(
            f"--time is too short: {fewest} steps of {step_tokens:,} tokens take {duration(needed)} here; set a longer "
            "--time."
        )
    low, high = fewest, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if with_steps(middle)[1] <= seconds else (low, middle)
    chosen = Recipe.model_validate((recipe.model_copy(update={"training": with_steps(low)[0]})).model_dump())
    final = change(chosen)
    training = final.training
    taken = training.max_steps * training.batch_size * config.context
    expected = _seconds(training, config, step, frozen=frozen)
    why = "as many steps as the time allows"
    if low == most:
        why = f"more than {MOST_READINGS:g} readings gain little"
    if training.max_steps != low:
        why = "changed: training.max_steps"
    why_rate = "by steps; by width" if frozen else "the recipe's"
    if training.learning_rate != chosen.training.learning_rate:
        why_rate = "changed: training.learning_rate"
    method = f"all {count(config.parameter_count())} weights"
    if (adapter := adapter_of(final)) is not None:
        method = f"{count(trained_parameters(config, adapter))} weights of an adapter"
    timed = "training with validations, on an idle machine"
    if step.busy:
        timed += "; it was busy when it was measured"
    return Choice(
        recipe=final,
        seconds=expected,
        reasons=[
            Reason("text", f"{tokens:,} tokens", "counted"),
            Reason("trained", method, "adaptation.method"),
            Reason("training", f"{count(taken)} tokens, {taken / tokens:.2g} readings", why),
            Reason(
                "steps", f"{training.max_steps:,} of {training.batch_size * config.context:,} tokens", "the recipe's"
            ),
            Reason("rate", f"{training.learning_rate:g}", why_rate),
            Reason("result", "the best validation's weights", f"every {training.validate_every} steps"),
            Reason("expected time", duration(expected), timed),
        ],
        where="this machine",
    )


def learning_rate(width: int, steps: int) -> float:
    """Return the rate of an adapter on a base of this width.

    It falls with the root of more steps than were measured, and with the root of the width, as AdamW's in
    `homegrown.planning.scaling_rules`.
    """
    peak = max(_LEAST_RATE, _RATE * min(1.0, _RATE_STEPS / steps) ** 0.5)
    return float(f"{peak * (_WIDTH / width) ** 0.5:.2g}")


def _training(base: TrainingSettings, steps: int, step_tokens: int) -> TrainingSettings:
    """Return the settings of a training of so many steps; what does not follow from them stays."""
    validations = min(_MOST_VALIDATIONS, max(1, steps // _VALIDATED_EVERY))
    every = -(-steps // validations)
    least, most = _VALIDATION_TOKENS
    changes = {
        "max_steps": steps,
        "warmup_steps": min(_MOST_WARM_UP, steps // _WARM_UP),
        "validate_every": every,
        "validation_tokens": int(min(most, max(least, _VALIDATION_SHARE * steps * step_tokens))),
        "patience": validations,
        "checkpoint_every": every,
        "sample_every": every,
    }
    return TrainingSettings.model_validate(base.model_dump() | changes)


def _seconds(training: TrainingSettings, config: ModelConfig, step: StepTime, *, frozen: bool) -> float:
    """Return the time of a training with its validations."""
    validations = -(-training.max_steps // training.validate_every)
    tokens = training.batch_size * config.context
    validating = validations * training.validation_tokens / tokens * _FORWARD_SHARE[frozen] * step.step_seconds
    return step.seconds_to_first_step + training.max_steps * step.step_seconds + validating
