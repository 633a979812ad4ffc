"""The flow behind `homegrown run auto`: it counts the text, chooses, and runs and records an ordinary recipe."""

import json
import logging
import re
from pathlib import Path

import pytest
import yaml

from flows.auto import auto
from flows.pretrain import planned
from homegrown.config.pipelines import change_recipe, load_auto
from homegrown.config.recipe import Recipe
from homegrown.evaluation import starter_score
from homegrown.planning import speed
from homegrown.planning.budget import Budget
from homegrown.planning.machine import Machine, this_machine
from homegrown.planning.text_facts import TextFacts
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from tasks import dial
from tasks.ui.events import Event, emit, listening
from tasks.ui.figures import SECONDS_LEFT
from tests.flows.small import write_corpus

LAPTOP = Machine("a processor", 4, ("AVX2",), 8 * 2**30, ())
SPEED = speed.Speed(per_token=1e-4, per_flop=3e-10, per_logit=0, seconds_to_first_step=2, busy=False)
CHANGES = ["shard.validation_share=0.08", "shard.test_share=0.1", "compute.workers=1", "training.precision=fp32"]


def test_a_training_that_takes_much_longer_than_expected_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.dial.get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr("tasks.dial._SETTLED", 0.0)
    text = TextFacts(1e8, counted=True, bz2_bits=2.1)
    expected = dial.dial(load_auto(), Budget(seconds=600), text, SPEED, LAPTOP)
    pace, heard = dial.Pace(), list[Event]()

    def progress(done: float, left: float) -> int:
        """Report `done` percent and the seconds left; return how many notes there are."""
        emit(Event("pretrain", "progress", done, 100, {SECONDS_LEFT: left}))
        return sum(event.kind == "note" for event in heard)

    with listening(pace), listening(heard.append):
        assert progress(10, 5400) == 0  # nothing was expected yet
        pace.expect(expected)
        emit(Event("pretrain", "started"))
        emit(Event("tokenizer", "progress", 10, 100, {SECONDS_LEFT: 5400.0}))
        assert progress(10, 560) == 0
        assert progress(80, 240) == 1  # 20 minutes in all, though it resumed at four fifths
        assert progress(85, 180) == 1
        assert progress(90, 200) == 2  # half as long again
    first = next(event.message for event in heard if event.kind == "note")
    assert first.startswith("At this speed the training takes 20 min 00 s, not the expected 9")


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_the_recipe_follows_from_the_text_and_is_an_ordinary_one(
    in_prefect: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[list[str]]()
    monkeypatch.setattr(starter_score, "starter_file", lambda: tmp_path)
    monkeypatch.setattr(starter_score, "measure", lambda texts: tried.append(texts) or 0.9)
    write_corpus(tmp_path / "data")
    recipe, machine = load_auto(), this_machine()
    name = speed._name(change_recipe(recipe, CHANGES), machine, machine.device("auto"))
    (in_prefect.root / ".state").mkdir(parents=True)
    (in_prefect.root / ".state" / speed.SPEEDS).write_text(json.dumps({name: SPEED.model_dump()}))

    with pytest.raises(UserError, match="contradict"):
        auto(recipe=recipe, time="180s", tokens="10M")
    assert "contradict" in caplog.text
    assert "Traceback" not in caplog.text
    deployed = next(
        one for one in yaml.safe_load(Path("pipelines.yaml").read_text())["deployments"] if one["name"] == "auto"
    )
    assert [deployed["parameters"][name] for name in ("time", "size", "tokens")] == [None, None, None]
    data, heard = [str(tmp_path / "data")], list[Event]()
    with listening(heard.append):
        made = auto(recipe=recipe, time="180s", data=data, changes=CHANGES, until="pretrain")
    assert re.match("Trained in .* bits per byte of validation text; expected were .* and ", heard[-1].message)
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
    (texts,) = tried  # once for a text
    corpus = (tmp_path / "data" / "topics.jsonl").read_text(encoding="utf-8")
    assert texts and all(json.dumps(text)[1:-1] in corpus for text in texts)
    assert dial.starter_command(chosen, Budget(seconds=90)) == f"homegrown adapt starter --data {data[0]} --time 1.5m"
    assert starter_score.known_score(in_prefect, made["shard"].path) == 0.9
    assert all(one.found for one in planned(chosen, "pretrain", None, []))
