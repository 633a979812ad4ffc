"""Learning rates against values worked by hand."""

import pytest

from homegrown.config.recipe import TrainingSettings
from homegrown.training.optimizer import share


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 1, 0.1),  # 1/4 of the way up to 0.4
        ("cosine", 3, 0.3),
        ("cosine", 4, 0.4),  # the peak
        ("cosine", 14, 0.22),  # halfway down: the middle of 0.4 and the floor 0.04
        ("cosine", 9, 0.04 + 0.36 * (1 + 0.5**0.5) / 2),  # a quarter: cos 45 degrees
        ("cosine", 24, 0.04),
        ("linear", 2, 0.2),
        ("linear", 4, 0.4),
        ("linear", 9, 0.31),
        ("linear", 14, 0.22),
        ("linear", 24, 0.04),
        ("wsd", 2, 0.2),
        ("wsd", 4, 0.4),
        ("wsd", 18, 0.4),  # the last quarter, 6 steps, begins after it
        ("wsd", 21, 0.22),
        ("wsd", 24, 0.04),
    ],
)
def test_learning_rates_worked_by_hand(
    training_settings: TrainingSettings, schedule: str, step: int, expected: float
) -> None:
    changes = {"max_steps": 24, "warmup_steps": 4, "learning_rate": 0.4, "schedule": schedule}
    settings = training_settings.model_copy(update={**changes, "final_learning_rate_share": 0.1, "decay_share": 0.25})
    assert settings.learning_rate * share(step, settings) == pytest.approx(expected)


def test_without_warm_up_the_first_step_is_just_below_the_peak(training_settings: TrainingSettings) -> None:
    changes = {"max_steps": 10, "warmup_steps": 0, "learning_rate": 1.0, "schedule": "linear"}
    settings = training_settings.model_copy(update={**changes, "final_learning_rate_share": 0.0})
    assert [share(step, settings) for step in (1, 10)] == pytest.approx([0.9, 0.0])
