"""`pipelines.yaml` as Prefect reads it: no misspelt key, and a real deployment of all pipelines."""

import os
import subprocess
import sys

import pytest
import yaml
from prefect import get_client
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, WorkPoolConfig

from homegrown.pipelines import PIPELINES, load_recipe


def test_no_key_is_misspelt() -> None:
    """Prefect ignores keys that it does not know, so a typing error would go unnoticed."""
    content = yaml.safe_load(PIPELINES.read_text())
    assert set(content) - set(PrefectYamlModel.model_fields) == {"definitions"}
    for deployment in content["deployments"]:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
        assert set(deployment["work_pool"]) <= set(WorkPoolConfig.model_fields)


def prefect(api: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command, env=os.environ | {"PREFECT_API_URL": api}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_all_pipelines_deploy_and_a_wrong_setting_is_refused(prefect_server: str) -> None:
    prefect(prefect_server, "work-pool", "create", "homegrown", "--type", "process", "--overwrite")
    prefect(prefect_server, "deploy", "--all", "--prefect-file", str(PIPELINES))
    with get_client(sync_client=True) as client:
        for name in ("tiny", "small", "medium", "large"):
            deployment = client.read_deployment_by_name(f"pretrain/{name}")
            assert deployment.parameters["recipe"] == load_recipe(name).model_dump(mode="json")
            assert deployment.enforce_parameter_schema
        recipe = load_recipe("tiny").model_dump(mode="json")
        recipe["training"]["max_steps"] = "many"
        with pytest.raises(Exception, match=r"max_steps|many"):
            client.create_flow_run_from_deployment(
                client.read_deployment_by_name("pretrain/tiny").id, parameters={"recipe": recipe}
            )
