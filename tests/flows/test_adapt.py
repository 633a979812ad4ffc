"""The command `adapt`: a base of the store continues on other text, with replay, and is evaluated beside the result."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from flows.adapt import adaptation_changes
from homegrown.cli.main import cli
from homegrown.config.pipelines import load_auto, load_recipe
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from tests.flows.small import CHANGES, write_corpus
from tests.flows.test_finetune import add_base

SMALL = (
    *(change for change in CHANGES if not change.startswith(("model.", "tokenizer."))),
    *("adaptation.context=64", "adaptation.rank=2", "training.max_steps=4", "training.precision=fp32"),
    *("training.validate_every=4", "evaluation.samples=2", "quantization.variants=[]"),
)


@pytest.mark.slow
def test_a_base_is_adapted_with_replay_and_evaluated_beside_the_result(in_prefect: Store, tmp_path: Path) -> None:
    base = add_base(in_prefect)
    write_corpus(tmp_path / "data")
    (tmp_path / "other").mkdir()
    for number in range(4):
        (tmp_path / "other" / f"{number}.txt").write_text(f"A text of another kind, number {number}. " * 30)
    changes = [word for change in SMALL for word in ("--set", change)]

    def adapt(*more: str) -> Result:
        paths = ["--data", str(tmp_path / "data"), "--replay", str(tmp_path / "other")]
        arguments = ["--artifacts", str(in_prefect.root), "adapt", "pretrain@1", *paths, *changes, *more]
        return CliRunner().invoke(cli, arguments)

    done = adapt()
    assert done.exit_code == 0, done.output
    assert "chat pretrain@2" in done.output
    adapted, mixed = in_prefect.resolve("pretrain"), in_prefect.resolve("replay")
    assert adapted.manifest.inputs["base"] == base.manifest.key
    assert mixed.path in {one.path for one in in_prefect.lineage(adapted)}
    sources = {row["source"] for row in pq.read_table(mixed.path / "train", columns=["source"]).to_pylist()}
    assert sources == {"data", "other"}
    evaluated = in_prefect.resolve("evaluate")
    rows = {row["variant"]: row for row in pq.read_table(evaluated.path / "results").to_pylist()}
    assert 0 < rows["original"]["bits_per_byte"] < rows["base"]["bits_per_byte"]
    assert "base_general_bits_per_byte" in evaluated.manifest.metrics
    (record,) = runs.recorded(in_prefect).values()
    assert record.keys["base"] == base.manifest.key
    again = adapt("--set", "replay.share=0.05")
    assert "evaluate: cached" in again.output
    other = " ".join(adapt("--set", "ingest.shard_mb=0.2", "--until", "ingest").output.split())
    assert "ingest: runs again, because it differs from ingest@1: shard_mb" in other
    refused = adapt("--set", "adaptation.context=4096")
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert "adaptation.context is 4096, but the base has a context of" in refused.output


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_a_time_sets_the_steps_and_the_same_command_repeats_nothing(in_prefect: Store, tmp_path: Path) -> None:
    add_base(in_prefect)
    write_corpus(tmp_path / "data")
    changes = [word for change in SMALL if "training." not in change for word in ("--set", change)]
    changes += ["--set", "training.precision=fp32", "--set", "training.batch_size=64", "--until", "pretrain"]

    def adapt(time: str) -> Result:
        paths = ["--data", str(tmp_path / "data"), "--time", time]
        arguments = ["--artifacts", str(in_prefect.root), "adapt", "pretrain@1", *paths, *changes]
        return CliRunner().invoke(cli, arguments)

    done = adapt("1h")
    assert done.exit_code == 0, done.output
    assert "more than 2 readings gain little" in done.output
    made = in_prefect.resolve("pretrain").manifest
    packed = in_prefect.resolve("pack").manifest.metrics["train_tokens"]
    assert made.settings["settings"]["max_steps"] == int(2 * packed // (64 * 64))
    assert list((in_prefect.root / ".state").glob("speeds.json"))
    assert "pretrain: cached" in adapt("1h").output
    short = adapt("1s")
    assert (short.exit_code, short.output.count("Traceback")) == (1, 0)
    assert "--time is too short: 10 steps of 4,096 tokens take" in " ".join(short.output.split())
    assert "is not a duration" in adapt("soon").output


def test_paths_become_sources_with_names_of_their_own() -> None:
    changes = adaptation_changes("a/b.gguf", ["data/My notes.txt", "s3://bucket/my-notes", "data"], ["data/"])
    recipe = load_recipe("starter", changes)
    assert recipe.base == "a/b.gguf"
    assert [source.name for source in recipe.ingest.sources] == ["my-notes", "my-notes-2", "data"]
    assert recipe.replay and [source.name for source in recipe.replay.sources] == ["data"]
    lengths = load_auto().filter
    assert recipe.filter.min_characters == lengths.min_characters < load_recipe("starter").filter.min_characters
    assert recipe.filter.max_characters == lengths.max_characters
    assert adaptation_changes(None, [], []) == []
    with pytest.raises(UserError, match=r"A path of --data or --replay is wrong: path: .*password") as refused:
        adaptation_changes(None, ["https://me:pa55word@example.com/a.txt"], [])
    assert "pa55word" not in str(refused.value)
    assert json.loads(changes[0].partition("=")[2]) == "a/b.gguf"
