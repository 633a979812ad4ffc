"""The flow behind `homegrown run auto`: it counts the text, chooses, and runs and records an ordinary recipe."""

import json
from pathlib import Path

import pytest
import yaml

from flows.auto import auto
from flows.pretrain import planned
from homegrown.config.pipelines import change_recipe, load_auto
from homegrown.config.recipe import Recipe
from homegrown.planning import speed
from homegrown.planning.machine import this_machine
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from tests.flows.small import write_corpus

SPEED = speed.Speed(per_token=1e-4, per_flop=3e-10, per_logit=0, seconds_to_first_step=2, busy=False)
CHANGES = ["shard.validation_share=0.08", "shard.test_share=0.1", "compute.workers=1", "training.precision=fp32"]


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_the_recipe_follows_from_the_text_and_is_an_ordinary_one(in_prefect: Store, tmp_path: Path) -> None:
    write_corpus(tmp_path / "data")
    recipe, machine = load_auto(), this_machine()
    name = speed._name(change_recipe(recipe, CHANGES), machine, machine.device("auto"))
    (in_prefect.root / ".state").mkdir(parents=True)
    (in_prefect.root / ".state" / speed.SPEEDS).write_text(json.dumps({name: SPEED.model_dump()}))

    with pytest.raises(UserError, match="contradict"):
        auto(recipe=recipe, time="180s", tokens="10M")
    deployed = next(
        one for one in yaml.safe_load(Path("pipelines.yaml").read_text())["deployments"] if one["name"] == "auto"
    )
    assert [deployed["parameters"][name] for name in ("time", "size", "tokens")] == [None, None, None]
    data = [str(tmp_path / "data")]
    made = auto(recipe=recipe, time="180s", data=data, changes=CHANGES, until="pretrain")
    record = list(runs.recorded(in_prefect).values())[-1]
    chosen = Recipe.model_validate(record.recipe)
    pretrained = in_prefect.resolve("pretrain").manifest
    assert pretrained.settings["settings"] == chosen.training.model_dump(mode="json")
    assert pretrained.metrics["steps"] == chosen.training.max_steps
    assert chosen.training.precision == "fp32"
    assert chosen.training != recipe.training
    assert pretrained.metrics["parameters"] < 10e6

    again = auto(recipe=recipe, time="180s", data=data, changes=CHANGES, until="pretrain")
    assert again == made
    assert all(one.found for one in planned(chosen, "pretrain", None, []))
