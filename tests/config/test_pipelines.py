"""Recipes from pipelines.yaml: the guide's table, Prefect's own model of the file, changes, and wrong values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from homegrown.config.finetune_recipe import DpoRecipe, FinetuneRecipe
from homegrown.config.pipelines import PIPELINES, change_recipe, load_dpo, load_finetuning, load_recipe, recipe_values
from homegrown.config.recipe import Recipe
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError

CLASSIC = ["classic-small", "classic-medium", "classic-large"]


def _missing(values: Any, model: Any, place: str = "") -> list[str]:
    """Return the settings that a recipe's values leave to a default."""
    found = []
    for name in type(model).model_fields:
        inner = getattr(model, name)
        if name not in values:
            found.append(f"{place}{name}")
        elif hasattr(type(inner), "model_fields"):
            found += _missing(values[name], inner, f"{place}{name}.")
        elif isinstance(inner, list):
            for index, item in enumerate(inner):
                if hasattr(type(item), "model_fields"):
                    found += _missing(values[name][index], item, f"{place}{name}.{index}.")
    return found


@pytest.mark.parametrize("name", ["tiny", "small", "medium", "large", *CLASSIC])
def test_every_setting_is_stated(name: str) -> None:
    deployments = yaml.safe_load(PIPELINES.read_text())["deployments"]
    values = next(one for one in deployments if one["name"] == name)["parameters"]["recipe"]
    recipe = Recipe.model_validate(values)
    assert recipe.name == name
    assert _missing(values, recipe) == []


@pytest.mark.parametrize("name", ["tiny", "small", "medium", "large"])
def test_every_setting_of_finetuning_is_stated(name: str) -> None:
    deployments = yaml.safe_load(PIPELINES.read_text())["deployments"]
    parameters = next(one for one in deployments if one["name"] == name and "base" in one["parameters"])["parameters"]
    recipe = FinetuneRecipe.model_validate(parameters["recipe"])
    assert recipe.name == f"finetune-{name}"
    assert _missing(parameters["recipe"], recipe) == []
    assert load_finetuning(name) == recipe


@pytest.mark.parametrize("name", ["tiny", "starter"])
def test_every_setting_of_dpo_is_stated(name: str) -> None:
    deployments = yaml.safe_load(PIPELINES.read_text())["deployments"]
    found = [one for one in deployments if one["name"] == name and one.get("entrypoint") == "flows.dpo.dpo"]
    values = found[0]["parameters"]["recipe"]
    recipe = DpoRecipe.model_validate(values)
    assert recipe.name == f"dpo-{name}"
    assert _missing(values, recipe) == []
    assert load_dpo(name) == recipe
    assert recipe_values(recipe.name) == recipe.model_dump(mode="json")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("small", (768, 12, 12, 3072, 512)),
        ("medium", (1024, 24, 16, 4096, 1024)),
        ("large", (2048, 32, 32, 8192, 2048)),
    ],
)
@pytest.mark.parametrize("family", ["modern", "classic"])
def test_the_guides_table(family: str, name: str, shape: tuple[int, ...]) -> None:
    model = load_recipe(name if family == "modern" else f"classic-{name}").model
    assert model.family == family
    width, layers, heads, feed_forward, context = shape
    assert (model.hidden, model.layers, model.feed_forward, model.context) == (width, layers, feed_forward, context)
    assert model.heads == (heads if family == "classic" else width // 128)


@pytest.mark.parametrize("name", CLASSIC)
def test_the_guides_model_has_the_parameters_that_its_description_gives(name: str) -> None:
    """Compared with PyTorch's own layers: pre-norm, ReLU, biases, an untied output projection."""
    recipe = load_recipe(name)
    model, words = recipe.model, recipe.tokenizer.vocabulary_size
    config = ModelConfig.from_settings(model, words, recipe.training.dropout)
    with torch.device("meta"):
        ours = Transformer(config)
        layer = nn.TransformerEncoderLayer(model.hidden, model.heads, model.feed_forward, norm_first=True)
        embedding, norm = nn.Embedding(words, model.hidden), nn.LayerNorm(model.hidden)
        guides = [embedding, *[layer] * model.layers, norm, nn.Linear(model.hidden, words)]
    expected = sum(parameter.numel() for part in guides for parameter in part.parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected
    assert config.parameter_count() == expected


@pytest.mark.parametrize("name", CLASSIC)
def test_the_guides_training(name: str) -> None:
    training = load_recipe(name).training
    sequences, epochs = 1_000_000, 3  # the length that the guide gives its data set, and its epochs
    assert training.batch_size == 4
    assert training.max_steps == sequences * epochs / training.batch_size
    assert training.checkpoint_every * epochs == training.max_steps
    assert (training.learning_rate, training.warmup_steps, training.schedule) == (5e-5, 1000, "linear")
    assert (training.optimizer, training.dropout, training.final_learning_rate_share) == ("adamw", 0.1, 0)


def test_a_change_is_made_in_one_recipe_only() -> None:
    before = load_recipe("tiny")
    changed = load_recipe(
        "tiny", ["training.max_steps=200", "filter.languages=[en, de]", "ingest.sources.0.limit_mb=3"]
    )
    assert changed.training.max_steps == 200
    assert changed.filter.languages == ["en", "de"]
    assert changed.ingest.sources[0].limit_mb == 3
    assert changed.training.learning_rate == before.training.learning_rate
    assert load_recipe("tiny") == before


@pytest.mark.parametrize("name", ["tiny", "small", "medium", "large", "classic-large", "starter"])
def test_three_steps_are_one_change_of_every_preset(name: str, caplog: pytest.LogCaptureFixture) -> None:
    own = load_recipe(name).training.warmup_steps
    shortened = load_recipe(name, ["training.max_steps=3"]).training
    assert (shortened.max_steps, shortened.warmup_steps) == (3, 0)
    (said,) = caplog.messages
    assert said.startswith(f"training.warmup_steps is 0, not {own:,}: at most a tenth of max_steps (3)")


def test_warmup_follows_fewer_steps_unless_it_is_set(caplog: pytest.LogCaptureFixture) -> None:
    assert load_recipe("medium", ["training.max_steps=1000"]).training.warmup_steps == 100
    caplog.clear()
    for changes, warmup in (
        (["training.max_steps=4200"], 420),
        (["training.max_steps=20000"], 420),
        (["training.max_steps=1000", "training.warmup_steps=300"], 300),
        (["training.warmup_steps=300", "training.max_steps=1000"], 300),
    ):
        assert load_recipe("medium", changes).training.warmup_steps == warmup
    assert not caplog.messages
    with pytest.raises(UserError, match=r"warmup_steps \(420\) must be less than max_steps \(3\)"):
        load_recipe("medium", ["training.max_steps=3", "training.warmup_steps=420"])
    noted: list[str] = []
    assert change_recipe(load_recipe("small"), ["training.max_steps=3"], noted.append).training.warmup_steps == 0
    assert len(noted) == 1
    assert not caplog.messages
    by_epochs = load_finetuning("small", ["training.max_steps=3", "training.warmup_steps=2"]).training
    assert by_epochs.resolved(320).warmup_steps == 2  # epochs counts there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.max_steps", "SETTING=VALUE"),
        ("training.max_step=2", "did you mean 'training.max_steps'"),
        ("training.max_steps=many", r"training\.max_steps: .*valid integer.*given: 'many'"),
        ("model.heads=3", "must be a multiple of heads"),
        ("training.warmup_steps=600", r"warmup_steps \(600\) must be less than max_steps \(600\)\.$"),
        ("ingest.sources.4.name=x", "not an index of a list of 1"),
        ("seed.x=1", "inside a setting without parts"),
        ("training.learning_rate=[", "not valid YAML"),
        ("shard.test_share=0.9", r"shard\.test_share"),
    ],
)
def test_a_wrong_change_is_one_message(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_recipe("tiny", [change])
    assert "\n" not in str(caught.value)


def test_wrong_files_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of tiny, starter, small, medium, large"):
        load_recipe("huge")
    with pytest.raises(UserError, match=r"No .*absent\.yaml"):
        load_recipe("tiny", file=tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("deployments: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe("tiny", file=bad)
    bad.write_text("deployments: 3")
    with pytest.raises(UserError, match="not a deployment file"):
        load_recipe("tiny", file=bad)


@pytest.mark.parametrize("load", [load_recipe, load_finetuning])
def test_processes_that_cannot_share_a_batch_are_refused_with_the_recipe(load: Callable[..., Any]) -> None:
    changes = ["training.batch_size=8", "training.micro_batch_size=8"]
    assert load("tiny", changes).compute.processes == 1
    message = r"'compute.processes=2' .* compute.processes \(2\) must divide .*micro_batch_size \(1\); change one"
    with pytest.raises(UserError, match=message):
        load("tiny", [*changes, "compute.processes=2"])
    with pytest.raises(UserError, match=r"compute.processes \(3\) must divide training.batch_size \(8\)"):
        load("tiny", ["training.batch_size=8", "training.micro_batch_size=auto", "compute.processes=3"])


def test_a_mistake_in_a_change_is_told_as_one() -> None:
    with pytest.raises(
        UserError, match=r"^The change 'training.max_steps=many' of the recipe 'tiny' .* cannot be made"
    ):
        load_recipe("tiny", ["training.max_steps=many"])
    with pytest.raises(UserError, match=r"^The recipe 'tiny' has no setting .*; training has .*, max_steps, "):
        load_recipe("tiny", ["training.epochs=3"])
    with pytest.raises(UserError, match=r"did you mean 'training.max_steps'"):
        load_recipe("tiny", ["trainig.max_steps=3"])
