"""`homegrown artifacts` and `homegrown runs`: what is current, who uses it, what it costs, what came out."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.comparison.history import history
from homegrown.config.pipelines import load_finetuning, load_recipe
from homegrown.reporting.numbers import file_size
from homegrown.store import inventory, runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from tests.comparison.runs import BEGAN, write_run


def homegrown(store: Store, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["--artifacts", str(store.root), *arguments])
    return done.output if done.exit_code else done.stdout


def listed(store: Store, *arguments: str) -> dict[str, dict[str, object]]:
    return {
        one["artifact"]: one for one in json.loads(homegrown(store, "artifacts", *arguments, "--json"))["artifacts"]
    }


@pytest.fixture
def three(store: Store) -> Store:
    write_run(store, "one", rate=0.1)
    write_run(store, "two", rate=0.2, hours=1)
    write_run(store, "other", rate=0.1, hours=2, recipe="small")
    return store


def test_what_is_current_and_who_used_it(three: Store) -> None:
    found = listed(three)
    assert list(found) == ["ingest@1", "pretrain@1", "pretrain@2", "evaluate@1", "evaluate@2"]
    assert found["ingest@1"]["runs"] == ["one", "two", "other"]
    assert found["pretrain@1"]["runs"] == ["one", "other"]
    assert {name: one["current_for"] for name, one in found.items()} == {
        "ingest@1": ["tiny", "small"],
        "pretrain@1": ["small"],
        "pretrain@2": ["tiny"],
        "evaluate@1": ["small"],
        "evaluate@2": ["tiny"],
    }
    assert [name for name, one in found.items() if one["newest"]] == ["ingest@1", "pretrain@2", "evaluate@2"]


def test_disk_use_is_counted_by_recipe_and_apart_where_shared(three: Store) -> None:
    sizes = {name: int(str(one["bytes"])) for name, one in listed(three).items()}
    use = {one["recipe"]: one for one in json.loads(homegrown(three, "artifacts", "--json"))["recipes"]}
    assert use["tiny"]["bytes"] == sum(sizes.values())
    assert use["tiny"]["own_bytes"] == sizes["pretrain@2"] + sizes["evaluate@2"]
    assert use["small"]["own_bytes"] == 0
    assert use["small"]["bytes"] == sizes["ingest@1"] + sizes["pretrain@1"] + sizes["evaluate@1"]
    assert "not shared" in homegrown(three, "artifacts")


def test_the_newest_that_is_whole_is_the_newest(three: Store) -> None:
    three.resolve("pretrain@2").path.joinpath("metrics.parquet").unlink()
    assert [name for name, one in listed(three).items() if one["newest"]] == ["ingest@1", "pretrain@1", "evaluate@2"]


def test_sizes_are_those_on_the_disk_and_the_total_has_what_is_unfinished(three: Store) -> None:
    slot = three.slot("dedup", Order("dedup", "code", {}, {}).key)
    (slot.with_name(f".{slot.name}.partial") / "half").write_bytes(b"x" * 1000)
    printed = json.loads(homegrown(three, "artifacts", "--json"))
    folders = [folder for folder in three.root.glob("[!.]*/*") if folder.is_dir()]
    true = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    assert printed["bytes"] == true
    assert [(one["state"], one["bytes"]) for one in printed["unfinished"]] == [("interrupted", 1000)]
    assert homegrown(three, "artifacts").endswith(f"5 artifacts and 1 unfinished, {file_size(true)} on disk.\n")


def test_of_one_run_and_of_one_stage(three: Store) -> None:
    assert list(listed(three, "--run", "two")) == ["ingest@1", "pretrain@2", "evaluate@2"]
    assert list(listed(three, "--stage", "pretrain")) == ["pretrain@1", "pretrain@2"]
    assert list(listed(three, "--run", "tiny@-2", "--stage", "evaluate")) == ["evaluate@1"]
    three.delete(three.resolve("pretrain@2").path)
    assert "Deleted artifacts of two: pretrain." in homegrown(three, "artifacts", "--run", "two")
    assert "No artifact of stage 'pack' exists; choose from:" in homegrown(three, "artifacts", "--stage", "pack")
    assert "No artifact of stage '' exists" in homegrown(three, "artifacts", "--stage", "")
    assert "There is no run ''" in homegrown(three, "artifacts", "--run", "")
    assert "do not apply to show" in homegrown(three, "artifacts", "--json", "show", "ingest@1")
    assert '"stage": "ingest"' in homegrown(three, "artifacts", "show", "ingest@1")


def test_of_two_versions_with_one_key_each_run_used_its_own(store: Store) -> None:
    write_run(store, "one")
    old = store.resolve("ingest@1")
    order = Order("ingest", "code", old.manifest.settings, {})
    new, _ = store.make(
        order, store.slot("ingest", order.key, fresh=True), lambda out: (out / "x").touch() or _outcome()
    )
    run = runs.recorded(store)["one"]
    runs.record(store, "forced", run.model_copy(update={"folders": run.folders | {"ingest": new.path.name}}))
    found = {entry.artifact.name: entry.runs for entry in inventory.inventory(store, runs.recorded(store))}
    assert (found["ingest@1"], found["ingest@2"]) == (["one"], ["forced"])


def _outcome():
    from homegrown.util.progress import Outcome

    return Outcome(1, 1)


def test_runs_say_what_they_changed_and_what_came_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("tiny").model_dump(mode="json")
    changed = load_recipe("tiny", ["training.max_steps=70"]).model_dump(mode="json")
    del changed["training"]["clip_norm"]  # as in a run from before there was such a setting
    teaching, taught = (
        load_finetuning("tiny", [f"finetuning.method={method}"]).model_dump(mode="json") for method in ("full", "lora")
    )
    deployments = [
        {"name": "tiny", "parameters": {"recipe": recipe}},
        {"name": "tiny", "entrypoint": "flows.finetune.finetune", "parameters": {"recipe": teaching}},
    ]
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"deployments": deployments}))
    monkeypatch.chdir(tmp_path)
    write_run(store, "plain", bits=1.75)
    runs.record(store, "plain", runs.recorded(store)["plain"].model_copy(update={"recipe": recipe}))
    runs.record(store, "changed", runs.RunRecord(recipe=changed, started=BEGAN.replace(hour=5)))
    runs.record(store, "gone", runs.RunRecord(recipe=recipe | {"name": "gone"}, started=BEGAN.replace(hour=6)))
    runs.record(store, "taught", runs.RunRecord(recipe=taught, started=BEGAN.replace(hour=7)))
    asked = {"name": "export-hf", "artifact": "pretrain@1", "format": "hf", "type": "f32"}
    runs.record(store, "exported", runs.RunRecord(recipe=asked, started=BEGAN.replace(hour=8)))
    plain, other, gone, *others = history(store)
    assert (plain.changed, plain.bits_per_byte, plain.state, plain.last) == ({}, 1.75, "finished", "evaluate")
    assert (other.changed, other.bits_per_byte, other.state, other.last) == (
        {"training.max_steps": 70, "training.warmup_steps": 7},
        None,
        "stopped",
        None,
    )
    assert gone.changed is None
    assert [one.changed for one in others] == [{"finetuning.method": "lora"}, {"artifact": "pretrain@1", "type": "f32"}]
    printed = homegrown(store, "runs")
    assert "1.7500" in printed
    assert "training.max_steps=70" in printed
    assert "not in pipelines.yaml" in printed
    names = [one["name"] for one in json.loads(homegrown(store, "runs", "--json"))]
    assert names == ["plain", "changed", "gone", "taught", "exported"]

    store.delete(store.resolve("evaluate").path)
    assert history(store)[0].headline == "2.2500 (validation)"
