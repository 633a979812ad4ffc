"""The diagnosis of machines that we describe, and of servers that answer or do not."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import yaml
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.config.pipelines import load_recipe, pipeline_names
from homegrown.planning import checks, recipe_checks
from homegrown.planning.checks import Check
from homegrown.planning.doctor import diagnose
from homegrown.planning.machine import LocalGpu, Machine
from homegrown.quantization import requirements
from homegrown.store.artifacts import Store
from homegrown.util import devices

GIB = 2**30
GPU = LocalGpu("NVIDIA L4", 24 * GIB, "550.54", 72.0)
MACHINE = Machine("a processor", 4, ("AVX2", "AVX-512", "AVX-512 BF16"), 16 * GIB, ())


@pytest.fixture
def look(store: Store) -> Callable[..., dict[str, Check]]:
    def run(machine: Machine, name: str | None = None, *changes: str) -> dict[str, Check]:
        recipe = load_recipe(name, changes) if name else None
        found = diagnose(machine, store, [], recipe)
        assert found.healthy == all(check.verdict != "bad" for check in found.checks)
        assert all(check.advice for check in found.checks if check.verdict == "bad")
        return {check.what: check for check in found.checks}

    return run


@pytest.fixture
def server() -> Iterator[str]:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true" if self.path == "/api/health" else b"null")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/api"
        running.shutdown()
        thread.join()


def test_this_environment_is_complete_and_tiny_runs(look: Callable[..., dict[str, Check]]) -> None:
    found = look(MACHINE, "tiny")
    assert {check.verdict for check in found.values()} == {"ok"}


def test_a_variant_without_its_library_is_reported_before_a_run(
    look: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda _: None)
    variants = look(MACHINE, "tiny", "quantization.variants=[q4_k_m]")["quantized variants"]
    assert variants.verdict == "bad"
    assert "The variant q4_k_m needs xllamacpp, which is not installed" in variants.advice


@pytest.mark.parametrize("what", ["text", "replay"])
def test_sources_that_cannot_be_read_are_reported_before_a_run(
    what: str, look: Callable[..., dict[str, Check]], tmp_path: Path
) -> None:
    files = {"good": "Some text.", "empty": "", "closed": "Some text."}
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(text)
    (tmp_path / "nothing").mkdir()

    def verdict(folder: str) -> Check:
        sources = f"[{{kind: files, name: other, path: {tmp_path / folder}}}]"
        setting = "ingest.sources" if what == "text" else "replay"
        value = sources if what == "text" else f"{{sources: {sources}, share: 0.1}}"
        return look(MACHINE, "starter", f"{setting}={value}")[what]

    assert (verdict("good").verdict, verdict("good").found) == ("ok", "1 files")
    assert f"no file or folder {tmp_path}/missing" in verdict("missing").advice
    assert "has no file in a supported format" in verdict("nothing").advice
    assert verdict("empty").advice == "All 1 files are empty; name others."
    with mock.patch("os.access", lambda path, mode: "closed" not in str(path)):
        assert verdict("closed").advice.endswith("closed/text.txt cannot be read; change its permissions.")


def test_conversations_to_replay_are_checked_too(look: Callable[..., dict[str, Check]], tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").write_text("{}")
    change = "replay={{conversations: [{}], share: 0.1}}"
    assert look(MACHINE, "starter", change.format(tmp_path))["replay"].verdict == "ok"
    missing = look(MACHINE, "starter", change.format(tmp_path / "none.jsonl"))["replay"]
    assert missing.verdict == "bad"
    assert "replay.conversations" in missing.advice


def test_a_missing_and_an_old_library_are_named(
    look: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["numpy>=2", "click>=999", "no-such-library", 'only-for-tests; extra == "dev"']
    monkeypatch.setattr(checks.importlib.metadata, "requires", lambda _: needed)
    libraries = look(MACHINE)["libraries"]
    assert libraries.verdict == "bad"
    assert "no-such-library is missing" in libraries.found
    assert "is not >=999" in libraries.found
    assert "numpy" not in libraries.found


def test_weak_processors_and_low_limits_are_warned_of(
    look: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(checks.resource, "getrlimit", lambda _: (256, 512))
    found = look(replace(MACHINE, processors=1, instructions=()))
    assert [found[what].verdict for what in ("processors", "instructions", "open files")] == ["warn"] * 3
    assert "ulimit -n 512" in found["open files"].advice


def test_the_server_is_asked(look: Callable[..., dict[str, Check]], server: str, monkeypatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    assert look(MACHINE)["Prefect server"].found == f"answers at {server}"
    monkeypatch.setenv("PREFECT_API_URL", server.replace("/api", "/other"))
    assert "no answer at" in look(MACHINE)["Prefect server"].found


def test_telemetry_is_what_prefect_would_read(look: Callable[..., dict[str, Check]], monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED", raising=False)
    assert look(MACHINE)["telemetry"].verdict == "ok"  # by this project's pyproject.toml
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    assert look(MACHINE)["telemetry"].verdict == "warn"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    assert look(MACHINE)["telemetry"].verdict == "ok"
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED")
    assert look(MACHINE)["telemetry"].verdict == "warn"


def test_too_little_memory_is_bad_and_what_would_fit_is_said(look: Callable[..., dict[str, Check]]) -> None:
    small = look(replace(MACHINE, memory_bytes=GIB), "small")
    assert small["memory to train"].verdict == "bad"
    assert "No layout fits" in small["memory to train"].advice
    large = look(replace(MACHINE, gpus=(GPU,) * 8), "large", "compute.processes=8", "training.micro_batch_size=1")
    assert large["GPU memory"].verdict == "bad"
    assert "compute.parallel=fsdp" in large["GPU memory"].advice


def test_too_few_gpus_are_bad(look: Callable[..., dict[str, Check]]) -> None:
    assert look(MACHINE, "small", "compute.device=cuda")["GPU"].verdict == "bad"
    found = look(replace(MACHINE, gpus=(GPU,)), "small", "compute.processes=2")["GPU"]
    assert (found.verdict, found.found) == ("bad", "1 x NVIDIA L4")


def test_a_gpu_that_pytorch_does_not_see_is_bad(look: Callable[..., dict[str, Check]], monkeypatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    found = look(replace(MACHINE, gpus=(GPU,)), "small")
    assert found["accelerator"].verdict == "bad"
    assert found["GPU memory"].verdict == "ok"


def test_fallbacks_of_an_accelerator_are_named(look: Callable[..., dict[str, Check]]) -> None:
    apple = look(replace(MACHINE, gpus=(LocalGpu("Apple M4", 16 * GIB, "", None, "mps"),)))["fallbacks"]
    assert apple.verdict == "warn"
    assert {"one training process", "no torch.compile", "sums in float32"} <= {*apple.found.split("; ")}
    assert look(replace(MACHINE, gpus=(GPU,)))["fallbacks"].found == "none"


def test_a_full_disk_is_bad(look: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    disk = look(MACHINE, "tiny")["disk"]
    assert (disk.verdict, disk.found.split()[0]) == ("bad", "0.0")


def test_without_a_compiler_only_a_demand_for_it_is_bad(
    look: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    settings = ("training.compile=auto", "training.compile=always")
    assert [look(MACHINE, "tiny", setting)["C++ compiler"].verdict for setting in settings] == ["ok", "bad"]


def test_a_training_of_years_is_warned_of(look: Callable[..., dict[str, Check]]) -> None:
    assert look(replace(MACHINE, memory_bytes=GIB * 200), "large")["time to train"].verdict == "warn"


def test_the_command_fails_where_the_recipe_cannot_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homegrown.planning.machine.this_machine", lambda: MACHINE)
    told = CliRunner().invoke(cli, ["--artifacts", str(store.root), "doctor", "--json"])
    assert told.exit_code == 0
    values = json.loads(told.output)
    assert values["healthy"]
    wants = {one["recipe"]: one for one in values["wants"]}
    assert set(wants) - {"starter"} == {one for one in pipeline_names() if one != "starter"}
    assert wants["tiny"]["gpu_least"] < wants["small"]["gpu_least"] < wants["large"]["gpu_least"]
    arguments = ["--artifacts", str(store.root), "doctor", "small", "--set", "compute.device=cuda"]
    shown = CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 1
    assert "Set compute.device to 'auto' or 'cpu'" in shown.output
    assert "…" not in CliRunner().invoke(cli, arguments, env={"COLUMNS": "80"}).output
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(load_recipe("tiny").model_dump(mode="json")))
    arguments = ["--artifacts", str(store.root), "doctor", str(own), "--set", "seed=2"]
    advised = " ".join(CliRunner().invoke(cli, arguments, env={"COLUMNS": "400"}).output.split())
    assert f"`homegrown plan {own} --set seed=2` measures it." in advised
    unnamed = CliRunner().invoke(cli, ["--artifacts", str(store.root), "doctor", ""])
    assert unnamed.exit_code == 1
    assert "has no pipeline ''" in unnamed.output


def test_a_store_that_cannot_be_written_is_bad(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("homegrown.planning.doctor.os.access", lambda *_: False)
    found = {check.what: check for check in diagnose(MACHINE, store, [], None).checks}
    assert found["artifacts"].verdict == "bad"
