"""Requirements of variants, checked before any work."""

import sys
from pathlib import Path

import pytest

from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_recipe
from homegrown.model.config import ModelConfig
from homegrown.quantization.requirements import REQUIREMENTS, check_recipe, check_requirements
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

STORE = Store(Path("artifacts"))


def config(**sizes: object) -> ModelConfig:
    fields = {"family": "modern", "hidden": 128, "layers": 1, "heads": 4, "kv_heads": 4, "feed_forward": 256}
    return ModelConfig.from_settings(ModelSettings.model_validate(fields | {"context": 64} | sizes), 300, 0.0)


@pytest.mark.parametrize("variant", [name for name, needs in REQUIREMENTS.items() if needs.library])
def test_a_missing_library_is_one_message(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = REQUIREMENTS[variant].library
    monkeypatch.setitem(sys.modules, str(library), None)
    with pytest.raises(UserError, match=f"{variant} needs {library}, which is not installed; run pip install .*remove"):
        check_requirements([variant], config())
    check_requirements(["int8-dynamic"], config())


def test_sizes_that_kernels_do_not_support_are_refused() -> None:
    narrow = config(hidden=192, heads=24, kv_heads=1)
    for variant in ("nf4", "nf4-double", "fp4", "fp4-double", "torchao-int4"):
        with pytest.raises(UserError, match="k_proj has 192 and 8"):
            check_requirements([variant], narrow)
    check_requirements(["int8", "int8-dynamic", "torchao-int8", "q8_0"], narrow)


def test_gguf_does_not_support_classic_models() -> None:
    classic = config(family="classic")
    for variant in ("q8_0", "q4_k_m"):
        with pytest.raises(UserError, match=r"no architecture like model\.family classic"):
            check_requirements([variant], classic)
    check_requirements(["int8", "nf4-double", "torchao-int4"], classic)


@pytest.mark.parametrize("pipeline", ["tiny", "small", "medium", "large", "classic-small"])
def test_the_pipelines_need_no_extra(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    for library in ("torchao", "xllamacpp"):
        monkeypatch.setitem(sys.modules, library, None)
    check_recipe(load_recipe(pipeline, []), STORE)
    with pytest.raises(UserError, match="torchao"):
        check_recipe(load_recipe(pipeline, ["quantization.variants=[torchao-int8]"]), STORE)
