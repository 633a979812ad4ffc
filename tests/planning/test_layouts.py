"""How the rows of a forward pass are chosen: as the trainer chooses them, and so that they fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.planning import layouts as module
from homegrown.planning.compute import config_of
from homegrown.planning.layouts import Fit, fits, layouts
from homegrown.planning.memory import training_memory
from homegrown.store.artifacts import Store
from homegrown.training import microbatch
from homegrown.util.errors import UserError

STORE = Store(Path("artifacts"))
GIB = 2**30


def ways(recipe: Recipe, device: Any, devices: int, memory: int) -> list[Fit]:
    return layouts(recipe, config_of(recipe, STORE), device, 2, devices, memory)


def test_on_a_processor_the_rows_are_the_trainers() -> None:
    recipe = load_recipe("small", ["training.batch_size=96"])
    (own, _) = ways(recipe, "cpu", 2, GIB)[:2]
    bound = microbatch._CPU_TOKENS // recipe.model.context
    assert own.layout.rows == microbatch.largest(48, bound)
    assert own.layout.rows * own.layout.passes == 48
    assert module.CPU_TOKENS == microbatch._CPU_TOKENS


def test_on_a_gpu_the_rows_are_the_most_that_fit() -> None:
    recipe, memory = load_recipe("medium"), 24 * GIB
    for fit in ways(recipe, "cuda", 1, memory):
        larger = replace(fit.layout, rows=2 * fit.layout.rows, passes=fit.layout.passes // 2)
        assert fit.fits
        assert not fits(training_memory(config_of(recipe, STORE), recipe.training, larger).peak, memory)


def test_a_model_that_fits_no_gpu_alone_fits_several_in_parts() -> None:
    recipe = load_recipe("large", ["compute.parallel=fsdp", "training.optimizer=adamw"])
    own, *others = ways(recipe, "cuda", 8, 40 * GIB)
    assert own.layout.parallel == "fsdp"
    assert {(fit.layout.parallel, fit.layout.checkpointing): fit.fits for fit in (own, *others)} == {
        ("fsdp", False): True,
        ("fsdp", True): True,
        ("ddp", False): False,
        ("ddp", True): False,
    }


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match=r"The devices \(3\) must divide training.batch_size \(512\)"):
        ways(load_recipe("small"), "cuda", 3, GIB)
