"""What enters the keys of `tokenizer` and `pack`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from homegrown.config.compute import ComputeSettings
from homegrown.config.pipelines import load_recipe
from homegrown.util.errors import UserError
from tasks.pack import pack
from tasks.stage import Handle, Run
from tasks.tokenizer import tokenizer

RUN = Run(1, ComputeSettings(), frozenset())
SHARD, TOKENIZER = (Handle(stage=name, folder="1-0", key=name) for name in ("shard", "tokenizer"))


@pytest.fixture(autouse=True)
def store_of_its_own(tmp_path: Path) -> Iterator[None]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "artifacts"}):
        yield


def pack_key(*changes: str) -> str:
    recipe = load_recipe("tiny", changes)
    return pack.order(RUN, settings=recipe.pack, rows=recipe.rows, shard=SHARD, tokenizer=TOKENIZER).key


def test_the_context_enters_pack_s_key_where_rows_are_made_of_it() -> None:
    assert pack_key() == pack_key("model.context=128") == pack_key("model.hidden=128")
    rows = pack_key("pack.layout=best_fit")
    assert rows not in (pack_key(), pack_key("pack.layout=best_fit", "model.context=128"))
    assert rows == pack_key("pack.layout=best_fit", "model.hidden=128")


def test_a_given_tokenizer_enters_the_key_by_content(tmp_path: Path) -> None:
    def key() -> str:
        settings = load_recipe("tiny", [f"tokenizer.path={tmp_path}"]).tokenizer
        return tokenizer.order(RUN, settings=settings, shard=SHARD).key

    with pytest.raises(UserError, match=r"tokenizer\.path"):
        key()
    (tmp_path / "tokenizer.json").write_text("{}")
    before = key()
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert key() != before
