"""The whole chain on a small corpus: what a second run, a change, a deletion and a kill each re-run."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.pretrain import CHAIN, pretrain
from homegrown.config.corpus import IngestSettings
from homegrown.store import fingerprint, runs
from homegrown.store.artifacts import Store
from homegrown.util.errors import SourceChanged
from tasks.stage import Run
from tasks.ui.events import Event, listening
from tests.flows.small import small_recipe, write_project
from tests.flows.warm import Command
from tests.waiting import ended_tasks

pytestmark = pytest.mark.slow

STAGES = list(CHAIN)


def run_tiny(project: Path, api: str) -> Command:
    return Command(project, os.environ | {"PREFECT_API_URL": api, "COLUMNS": "200"}, ("run", "tiny"))


@pytest.fixture(scope="module")
def grown(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose whole chain the command line has run, and nothing disturbed."""
    project = tmp_path_factory.mktemp("grown")
    write_project(project)
    output, _ = run_tiny(project, prefect_server).communicate()
    assert "The model writes:" in output, output
    return project


@pytest.fixture
def store(grown: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(grown)
    return Store(grown / "artifacts")


def run(*changes: str, **parameters: Any) -> list[str]:
    """Run the flow in this process; return the stages that were not cached."""
    state = pretrain(recipe=small_recipe(Path("data"), *changes), **parameters, return_state=True)
    assert state.is_completed(), state.message
    states = ended_tasks(state.state_details.flow_run_id, STAGES.index(parameters.get("until", STAGES[-1])) + 1)
    assert set(states.values()) <= {"Completed", "Cached"}
    return [stage for stage in STAGES if states.get(stage) == "Completed"]


def test_the_whole_chain_and_what_is_run_again(in_prefect: Store) -> None:
    assert {one.manifest.stage for one in in_prefect.all()} == set(STAGES)
    evaluated = in_prefect.resolve("evaluate")
    results = pq.read_table(evaluated.path / "results").to_pylist()
    weights = [row["variant"] for row in results if row["kind"] == "weights"]
    assert weights == ["original", *small_recipe(Path("data")).quantization.variants]
    assert all(0 < row["bits_per_byte"] < 9 for row in results if row["kind"] != "text")
    assert {one.manifest.stage for one in in_prefect.lineage(evaluated)} == set(STAGES) - {"evaluate"}
    first = next(iter(runs.recorded(in_prefect).values()))
    assert set(first.keys) == set(STAGES)

    assert run("compute.workers=2", "compute.memory_gb=1") == []
    assert run("evaluation.samples=3") == ["evaluate"]
    assert run("filter.min_characters=150", until="tokenizer") == ["filter", "shard", "tokenizer"]
    assert run(until="shard", force=["dedup"]) == ["dedup"]

    in_prefect.delete(in_prefect.resolve("tokenizer@1").path)
    assert run(until="pack") == ["tokenizer"]

    Path("data", "more.txt").write_text("A document that was not there before. " * 20)
    assert run(until="ingest") == ["ingest"]


@pytest.fixture
def engine_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "homegrown"
    shutil.copytree(fingerprint._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "_PACKAGE", copy)
    return copy


def fingerprints(cache: Path) -> dict[str, str]:
    from tasks import dedup, evaluate, filter, ingest, pack, pretrain, quantize, shard, tokenizer

    stages = [ingest.ingest, dedup.dedup, filter.filter_documents, shard.shard, tokenizer.tokenizer, pack.pack]
    stages += [pretrain.pretrain, quantize.quantize, evaluate.evaluate]
    return {stage.name: fingerprint.code_fingerprint(stage.engine, cache) for stage in stages}


def test_a_comment_runs_nothing_again_and_an_edit_of_the_packer_from_pack_on(engine_copy: Path, tmp_path: Path) -> None:
    def append(file: Path, text: str) -> None:
        file.write_text(file.read_text() + text)
        os.utime(file, (0, 0))  # old enough for the cache, so that each version of a file is parsed once

    cache = tmp_path / "code.sqlite"
    before = fingerprints(cache)
    for file in engine_copy.rglob("*.py"):
        append(file, "\n# a comment\n")
    assert fingerprints(cache) == before
    append(engine_copy / "data" / "packing.py", "\nEDITED = True\n")
    after = fingerprints(cache)
    # Stages after it follow through the keys of their inputs; none before it may change.
    assert next(stage for stage in STAGES if before[stage] != after[stage]) == "pack"


@pytest.mark.usefixtures("trains_here")
def test_more_steps_extend_a_finished_run(in_prefect: Store) -> None:
    wsd = ("training.schedule=wsd", "training.decay_steps=4")
    events: list[Event] = []
    with listening(events.append):
        assert run(*wsd, until="pretrain")[-1] == "pretrain"
        assert run(*wsd, "training.max_steps=16", until="pretrain") == ["pretrain"]
        assert run(*wsd, "training.max_steps=16", until="pretrain", force=["pretrain"]) == ["pretrain"]
    made = [event.artifact for event in events if event.kind == "made" and event.artifact]
    finished, extended, again = [one for one in made if one.manifest.stage == "pretrain"]
    notes = [event.message for event in events if event.kind == "note" and event.message.startswith("Training")]
    assert notes == [f"Training extends {finished.name} and continues after its step 8."]
    assert extended.manifest.metrics["extended_from"] == f"pretrain/{finished.path.name}"
    assert (extended.manifest.metrics["resumed_from"], again.manifest.metrics["resumed_from"]) == (8, 0)
    weights = [(one.path / "model" / "model.safetensors").read_bytes() for one in (extended, again)]
    assert weights[0] == weights[1]


def test_killed_in_each_stage_it_goes_on_and_ends_the_same(prefect_server: str, grown: Path, tmp_path: Path) -> None:
    write_project(tmp_path)
    for stage in STAGES:
        process = run_tiny(tmp_path, prefect_server)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(f"{stage}: started"):
                process.kill()
                break
        else:
            pytest.fail(f"{stage} was never started:\n{''.join(lines)}")
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    output, _ = run_tiny(tmp_path, prefect_server).communicate()
    assert "The model writes:" in output, output

    killed, whole = Store(tmp_path / "artifacts"), Store(grown / "artifacts")
    keys = {one.manifest.stage: one.manifest.key for one in killed.all()}
    assert keys == next(iter(runs.recorded(whole).values())).keys
    weights = [store.resolve("pretrain@1").path / "model" / "model.safetensors" for store in (killed, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_command_line_ends_with_one_sentence(prefect_server: str, tmp_path: Path) -> None:
    """Really the command, from cold: what the other tests start is forked."""
    write_project(tmp_path)
    shutil.rmtree(tmp_path / "data")
    command = [sys.executable, "-m", "homegrown.cli.main", "run", "tiny"]
    environment = os.environ | {"PREFECT_API_URL": prefect_server, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in output
    assert re.search(r"^Error: .*data.*\.$", output, re.MULTILINE), output


def test_sources_that_change_while_they_are_read_are_read_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def ingest(run: Run, settings: IngestSettings) -> str:
        tries.append("read")
        if len(tries) != 2:
            raise SourceChanged("raw: a.jsonl changed while it was read.")
        return "handle"

    monkeypatch.setattr("flows.pretrain.ingest", ingest)
    monkeypatch.setattr("flows.pretrain.get_run_logger", lambda: logging.getLogger("test"))
    recipe = small_recipe(Path("data"))
    assert CHAIN["ingest"](Run(1, recipe.compute), recipe, {}) == "handle"
    with pytest.raises(SourceChanged):
        CHAIN["ingest"](Run(1, recipe.compute), recipe, {})
        CHAIN["ingest"](Run(1, recipe.compute), recipe, {})
    assert len(tries) == 4
