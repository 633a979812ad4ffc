"""The dial of `homegrown adapt --time`: the steps for a text, a time and a measured step."""

from dataclasses import replace

import pytest

from homegrown.config.pipelines import change_recipe, load_recipe
from homegrown.model.config import ModelConfig
from homegrown.planning.adaptation_dial import LEAST_STEPS, MOST_READINGS, dial
from homegrown.planning.dial import Choice
from homegrown.planning.speed import StepTime
from homegrown.util.errors import UserError

RECIPE = load_recipe("starter")
CONFIG = replace(
    ModelConfig.from_settings(load_recipe("tiny").new_model, 49_152, 0.0), hidden=576, layers=30, context=512
)
STEP = StepTime(step_seconds=2.0, seconds_to_first_step=10, busy=False)
MUCH = 10**9


def row(found: Choice, what: str) -> str:
    return next(one.why for one in found.reasons if one.what == what)


@pytest.mark.parametrize("seconds", [60, 600, 2700, 36_000])
def test_the_training_takes_the_time_and_no_more(seconds: float) -> None:
    found = dial(RECIPE, seconds, MUCH, CONFIG, STEP)
    training = found.recipe.training
    validations = -(-training.max_steps // training.validate_every)
    # A validation costs at most a step of as many tokens.
    steps = training.max_steps + validations * training.validation_tokens / (training.batch_size * CONFIG.context)
    assert found.seconds <= seconds
    assert 10 + 2 * steps >= seconds - 2 * 2
    assert training.patience == validations <= 10
    assert training.warmup_steps <= training.max_steps / 10
    assert training.learning_rate == pytest.approx(
        2e-3 * min(1, max(1 / 2, (70 / training.max_steps) ** 0.5)), rel=0.05
    )


def test_a_little_text_is_not_read_more_often_than_helps() -> None:
    found = dial(RECIPE, 36_000, 100_000, CONFIG, STEP)
    read = found.recipe.training.max_steps * 4 * 512 / 100_000
    assert MOST_READINGS - 0.05 < read <= MOST_READINGS
    assert "gain little" in row(found, "training")
    wider = dial(RECIPE, 36_000, 100_000, replace(CONFIG, hidden=4 * 576), STEP)
    assert wider.recipe.training.learning_rate == found.recipe.training.learning_rate / 2
    assert found.seconds < 36_000


def test_ones_own_settings_stay_and_set_the_time() -> None:
    slow = dial(RECIPE, 600, MUCH, CONFIG, STEP)
    changes = ["training.max_steps=50", "training.learning_rate=0.002"]
    found = dial(RECIPE, 600, MUCH, CONFIG, STEP, lambda one: change_recipe(one, changes, lambda _: None))
    assert (found.recipe.training.max_steps, found.recipe.training.learning_rate) == (50, 0.002)
    assert row(found, "training") == "changed: training.max_steps"
    assert 110 < found.seconds < slow.seconds / 2


def test_a_time_for_less_than_the_fewest_steps_says_what_they_take() -> None:
    with pytest.raises(UserError, match=rf"--time is too short: {LEAST_STEPS} steps of 2,048 tokens take 3\d s"):
        dial(RECIPE, 25, MUCH, CONFIG, STEP)
    with pytest.raises(UserError, match=r"The text is too little: .* of its 300 tokens"):
        dial(RECIPE, 600, 300, CONFIG, STEP)
