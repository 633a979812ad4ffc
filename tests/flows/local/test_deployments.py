"""`pipelines.yaml` as Prefect reads it: no misspelt key, a real deployment of all pipelines, one setting changed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker

from flows.local import deployment_file
from flows.pretrain import pretrain
from homegrown.config.pipelines import PIPELINES, load_recipe
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from tests.flows.small import small_recipe, write_corpus


def test_no_key_is_misspelt() -> None:
    checked = deployment_file.check(PIPELINES)
    assert checked.deployments == [
        *("pretrain/tiny", "adapt/starter", "pretrain/small", "pretrain/medium", "pretrain/large"),
        *("pretrain/classic-small", "pretrain/classic-medium", "pretrain/classic-large"),
        *("export/hf", "export/gguf", "export/onnx", "export/ollama", "lm-eval/held-out"),
        *("finetune/tiny", "finetune/starter", "finetune/small", "finetune/medium", "finetune/large"),
        *("dpo/tiny", "dpo/starter", "pretrain/auto"),
    ]
    assert checked.pools == ["homegrown"]


def set_in(*path: str | int, to: Any = 1) -> Callable[[Any], None]:
    def edit(content: Any) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = to

    return edit


FIRST = ("deployments", 0)
SET_DIRECTORY = "prefect.deployments.steps.set_working_directory"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_in("definition"), "at the top: unknown key 'definition'; did you mean 'definitions'"),
        (set_in("deployment"), "did you mean 'deployments'"),
        (set_in(*FIRST, "discription"), "deployments.0: .*did you mean 'description'"),
        (set_in(*FIRST, "work_pool", "work_queue"), "'tiny', work_pool: .*did you mean 'work_queue_name'"),
        (set_in(*FIRST, "work_pool", "job_variables", to={"working_dri": "."}), "did you mean 'working_dir'"),
        (set_in(*FIRST, "concurrency_limit", to={"limits": 1}), "concurrency_limit: .*did you mean 'limit'"),
        (set_in(*FIRST, "pull", 0, SET_DIRECTORY, "directry"), "did you mean 'directory'"),
        (set_in(*FIRST, "pull", to=[{"prefect.deployments.steps.set_directory": {}}]), "no function .* exists"),
        (set_in(*FIRST, "pull", to=[{SET_DIRECTORY: {}, "other": {}}]), "expected the dotted name of a function"),
        (
            set_in("pull", to=[{SET_DIRECTORY: {"dir": "."}}]),
            "pull, .*unknown key 'dir'; the keys are: directory, id, requires",
        ),
        (set_in(*FIRST, "schedules", to=[{"crom": "0 3 * * *"}]), "schedule 0: .*did you mean 'cron'"),
        (set_in(*FIRST, "schedules", to=[{"cron": "0 3 * * *", "interval": 3}]), "Exactly one of"),
        (set_in(*FIRST, "schedule", to={"cron": "0 3 * * *", "parameters": {"untill": 1}}), "did you mean 'until'"),
        (set_in(*FIRST, "triggers", to=[{"expects": []}]), "triggers: .*did you mean 'expect'"),
        (set_in(*FIRST, "parameters", "forced"), "parameters: .*did you mean 'force'"),
        (
            set_in(*FIRST, "parameters", "until", to="dedupe"),
            "parameters, until: .*'dedup'.*'dedupe'",
        ),
        (set_in(*FIRST, "parameters", "recipe", "training", "max_step"), "did you mean 'max_steps'"),
        (set_in(*FIRST, "parameters", "recipe", "ingest", "sources", 0, "limit"), "did you mean 'limit_mb'"),
        (set_in("deployments", 8, "parameters", "type", to="f23"), "'hf', parameters, type: .*'f32'.*'f23'"),
        (set_in("deployments", 8, "parameters", "too"), "'hf', parameters: .*did you mean 'to'"),
        (set_in(*FIRST, "entrypoint", to="flows.pretrain.pretrian"), "no flow exists at the entrypoint"),
        (set_in(*FIRST, "name", to="small"), "two deployments 'pretrain/small'"),
        (set_in("deployments", to=[]), "no list of deployments"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, edit: Callable[[Any], None], message: str) -> None:
    content = yaml.safe_load(PIPELINES.read_text())
    edit(content)
    file = tmp_path / "pipelines.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message) as caught:
        deployment_file.check(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schedule_may_change_one_setting(tmp_path: Path) -> None:
    content = yaml.safe_load(PIPELINES.read_text())
    nightly = {
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "parameters": {"changes": ["seed=2"]},
        "slug": "nightly",
    }
    content["deployments"][0]["schedules"] = [nightly]
    file = tmp_path / "pipelines.yaml"
    file.write_text(yaml.safe_dump(content))
    assert "pretrain/tiny" in deployment_file.check(file).deployments


def prefect(api: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command, env=os.environ | {"PREFECT_API_URL": api}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_all_pipelines_deploy_and_a_wrong_setting_is_refused(prefect_server: str) -> None:
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name="homegrown", type="process", base_job_template=template))
        prefect(prefect_server, "deploy", "--all", "--prefect-file", str(PIPELINES))
        for name in ("tiny", "small", "medium", "large"):
            deployment = client.read_deployment_by_name(f"pretrain/{name}")
            assert deployment.parameters["recipe"] == load_recipe(name).model_dump(mode="json")
            assert deployment.enforce_parameter_schema
            form = deployment.parameter_openapi_schema["properties"]
            # The recipe, which fills pages, comes after what is changed for a run.
            assert sorted(form, key=lambda field: form[field]["position"]) == [
                *("changes", "until", "from_stage", "force", "recipe")
            ]
        tiny = client.read_deployment_by_name("pretrain/tiny").id
        recipe = load_recipe("tiny").model_dump(mode="json")
        recipe["training"]["max_steps"] = "many"
        with pytest.raises(Exception, match=r"max_steps|many"):
            client.create_flow_run_from_deployment(tiny, parameters={"recipe": recipe})

        # What the UI's form and `prefect deployment run --param` do: one list, the recipe left as it is.
        for wrong in ([3], "training.max_steps=3"):
            with pytest.raises(PrefectHTTPStatusError, match="changes"):
                client.create_flow_run_from_deployment(tiny, parameters={"changes": wrong})
        changed = client.create_flow_run_from_deployment(tiny, parameters={"changes": ["training.max_steps=3"]})
        assert changed.parameters["recipe"] == load_recipe("tiny").model_dump(mode="json")
        client.delete_flow_run(changed.id)


@pytest.mark.slow
def test_a_run_changes_one_setting_and_keeps_what_it_ran(
    in_prefect: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_corpus(tmp_path / "data")
    recipe = small_recipe(tmp_path / "data")
    with pytest.raises(UserError, match="nowhere"):
        pretrain(recipe=small_recipe(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"did you mean 'ingest\.shard_mb'"):
        pretrain(recipe=recipe, until="ingest", changes=["ingest.shards_mb=0.1"])
    with pytest.raises(UserError, match=r"ingest\.shard_mb: .*'much'"):
        pretrain(recipe=recipe, until="ingest", changes=["ingest.shard_mb=much"])
    with pytest.raises(UserError, match="'max_steps' is not SETTING=VALUE; write, for example"):
        pretrain(recipe=recipe, until="ingest", changes=["max_steps"])
    assert in_prefect.all() == []

    pretrain(recipe=recipe, until="ingest", changes=["ingest.shard_mb=0.1", "training.max_steps=7"])
    record = list(runs.recorded(in_prefect).values())[-1]
    # The warm-up follows, and the run's log says so.
    expected = ("ingest.shard_mb=0.1", "training.max_steps=7", "training.warmup_steps=0")
    assert record.recipe == small_recipe(tmp_path / "data", *expected).model_dump(mode="json")
    assert any("training.warmup_steps is 0, not 2" in message for message in caplog.messages)
    assert in_prefect.resolve("ingest").manifest.settings["settings"]["shard_mb"] == 0.1
