"""What cannot fit is refused by run, plan and doctor, before the first stage; what may fit is not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from homegrown.cli.main import cli
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.data.index import Index, Split, TokenFile, write_index
from homegrown.planning.fit import STAGES, check_fit, check_packed
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tests.finetuning.conversations import write_base

SENTENCE = "A sentence about rivers, hills and stones. "


def recipe_of(folder: Path, *changes: str) -> Recipe:
    path = json.dumps(str(folder))
    small = ("tokenizer.vocabulary_size=300", "model.context=64", "evaluation.prompt_tokens=16")
    small += ("evaluation.continuation_tokens=8",)
    return load_recipe("tiny", [f"ingest.sources=[{{kind: files, name: notes, path: {path}}}]", *small, *changes])


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(SENTENCE * 4)  # 172 bytes
    return folder


def write_packed(folder: Path, documents: dict[Split, list[int]]) -> None:
    """Write splits of documents with these numbers of tokens."""
    splits: dict[Split, list[TokenFile]] = {}
    for split, lengths in documents.items():
        names = {"tokens_file": f"{split}.bin", "documents_file": f"{split}.npy"}
        folder.mkdir(exist_ok=True)
        np.ones(sum(lengths), "<u2").tofile(folder / names["tokens_file"])
        np.save(folder / names["documents_file"], np.cumsum([0, *lengths[:-1]]))
        splits[split] = [TokenFile(**names, tokens=sum(lengths), documents=len(lengths), bytes=1)]
    write_index(folder, Index(dtype="<u2", vocabulary_size=300, splits=splits))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "tokenizer.vocabulary_size=4096",
            "tokenizer.vocabulary_size is 4,096, but the files of source notes have 688",
        ),
        ("model.context=1024", "model.context is 1,024, but the files of source notes have 688 bytes at most"),
        ("evaluation.prompt_tokens=240", "evaluation.prompt_tokens + evaluation.continuation_tokens are 248, but no"),
    ],
)
def test_text_that_cannot_give_what_a_setting_asks_is_refused(
    change: str, message: str, notes: Path, store: Store
) -> None:
    recipe_of(notes)
    changes = [change, *(["model.context=256"] if "evaluation" in change else [])]
    with pytest.raises(UserError) as refused:
        check_fit(recipe_of(notes, *changes), store, STAGES)
    assert message in str(refused.value)
    check_fit(recipe_of(notes), store, STAGES)


def test_a_stage_that_does_not_run_refuses_nothing(notes: Path, store: Store) -> None:
    recipe = recipe_of(notes, "tokenizer.vocabulary_size=4096", "model.context=4096")
    check_fit(recipe, store, ["ingest", "dedup", "filter", "shard"])
    with pytest.raises(UserError, match=r"tokenizer\.vocabulary_size"):
        check_fit(recipe, store, ["shard", "tokenizer"])


def test_fewer_documents_than_splits_are_refused_unless_files_have_several(notes: Path, store: Store) -> None:
    for number in (2, 3):
        (notes / f"{number}.txt").unlink()
    with pytest.raises(UserError, match="are 2 documents at most, but training, validation and test need one each"):
        check_fit(recipe_of(notes), store, STAGES)
    (notes / "more.jsonl").write_text(json.dumps({"text": SENTENCE}) + "\n")
    check_fit(recipe_of(notes), store, STAGES)


@pytest.mark.parametrize("name", ["text.txt.gz", "table.parquet", "book.epub"])
def test_what_only_reading_tells_is_not_refused(name: str, notes: Path, store: Store) -> None:
    """A small compressed file can hold any amount of text."""
    (notes / name).write_bytes(b"...")
    check_fit(recipe_of(notes, "tokenizer.vocabulary_size=4096", "model.context=4096"), store, STAGES)


def test_a_legacy_encoding_can_give_three_bytes_for_one(notes: Path, store: Store) -> None:
    recipe = recipe_of(notes, "tokenizer.vocabulary_size=1000")  # 737 merges
    with pytest.raises(UserError, match="688 bytes at most"):
        check_fit(recipe, store, STAGES)
    (notes / "0.txt").write_bytes("สวัสดี ".encode("cp874") * 20)
    check_fit(recipe, store, STAGES)


def test_packed_text_is_checked_before_training(tmp_path: Path, store: Store, notes: Path) -> None:
    packed = tmp_path / "pack"
    write_packed(packed, {"train": [100, 90], "validation": [30], "test": [20, 26]})
    check_packed(recipe_of(notes, "model.context=189"), packed, STAGES)
    with pytest.raises(UserError, match=r"model\.context is 190, but there are 190 tokens to train on"):
        check_packed(recipe_of(notes, "model.context=190"), packed, STAGES)
    check_packed(recipe_of(notes, "evaluation.prompt_tokens=17"), packed, STAGES)
    with pytest.raises(UserError, match="are 26, but no test document has more than 26 tokens"):
        check_packed(recipe_of(notes, "evaluation.prompt_tokens=18"), packed, STAGES)
    check_packed(recipe_of(notes, "evaluation.prompt_tokens=18"), packed, ["pack", "pretrain"])


def test_the_context_of_a_base_is_a_bound(store: Store) -> None:
    def build(out: Path) -> Outcome:
        write_base(out / "model")
        return Outcome(1, 1, "tokens", {})

    order = Order("pretrain", "code", {}, {})
    store.make(order, store.slot("pretrain", order.key), build)
    recipe = load_recipe("starter", ["base=pretrain@1", "adaptation.context=99999"])
    with pytest.raises(UserError, match=r"adaptation\.context is 99999, but the base has a context of"):
        check_fit(recipe, store, STAGES)


def test_run_dry_run_plan_and_doctor_refuse_with_the_same_words(notes: Path, store: Store) -> None:
    path = json.dumps(str(notes))
    changes = ["--set", f"ingest.sources=[{{kind: files, name: notes, path: {path}}}]"]

    def said(*arguments: Any) -> Result:
        return CliRunner().invoke(cli, ["--artifacts", str(store.root), *arguments, *changes])

    message = "tokenizer.vocabulary_size is 4,096, but the files of source notes have 688 bytes at most"
    for command in (
        ["run", "tiny"],
        ["run", "tiny", "--dry-run"],
        ["plan", "tiny", "--no-measure"],
        ["doctor", "tiny"],
    ):
        done = said(*command)
        assert (done.exit_code, message in " ".join(done.output.split())) == (1, True), (command, done.output)
    assert not (store.root / "runs").exists()
