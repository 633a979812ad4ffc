"""A project folder with `homegrown up` of its own, and the requests of the UI."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from homegrown.config.pipelines import PIPELINES
from tests.flows.small import small_recipe

_PIPELINES = PIPELINES.read_text()


def write_deployments(folder: Path, **keys: Any) -> None:
    recipe = small_recipe(Path("data")).model_dump(mode="json")
    deployment = yaml.safe_load(_PIPELINES)["deployments"][0]
    deployment |= {"parameters": {"recipe": recipe, "until": "ingest", "force": [], "changes": []}, **keys}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"deployments": [deployment]}))


@dataclass
class Project:
    """A project folder with a server's address and a Prefect home of its own."""

    folder: Path
    origin: str

    @property
    def home(self) -> Path:
        return self.folder / "prefect"

    def homegrown(self, *arguments: str, prefix: Sequence[str] = (), **options: Any) -> "subprocess.Popen[str]":
        environment = os.environ | {
            "PREFECT_API_URL": f"{self.origin}/api",
            "PREFECT_HOME": str(self.home),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [*prefix, sys.executable, "-m", "homegrown.cli.main", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **options)

    def processes(self) -> dict[int, str]:
        """Return every process that works for this project, by the home that its environment names."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT_HOME") == str(self.home):
                    found[process.pid] = " ".join(process.cmdline())
        return found


def until(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 400
    while not (value := true()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return value


class AskAgain(httpx.HTTPTransport):
    """Repeats what the server had no time for, as Prefect's own client does.

    It answers 503 when a request that had read its database wanted to write, and another had written meanwhile: SQLite
    refuses that at once (SQLITE_BUSY_SNAPSHOT), whatever time-out is set. Nothing was written then.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        end = time.monotonic() + 120
        while (answer := super().handle_request(request)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            if time.monotonic() > end:
                break
            answer.close()
            time.sleep(float(answer.headers.get("Retry-After", 0.5)))
        return answer


class Ui:
    """Asks the server what the UI's pages ask, as they do: with a token against forged requests."""

    def __init__(self, origin: str) -> None:
        self.client = httpx.Client(base_url=f"{origin}/api", timeout=120, transport=AskAgain())
        token = self.client.get("/csrf-token", params={"client": "test"}).json()
        self.headers = {"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": token["token"]}

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=body, headers=self.headers).raise_for_status().json()

    def start(self, **parameters: Any) -> str:
        deployment = self.get("/deployments/name/pretrain/tiny")
        run = self.post(f"/deployments/{deployment['id']}/create_flow_run", parameters=parameters)
        return str(run["id"])

    def keys(self, of: Any) -> list[str]:
        return [one["key"] for one in self.post("/artifacts/latest/filter", artifacts=of)]

    def logs(self, of: Any) -> list[str]:
        return [line["message"] for line in self.post("/logs/filter", logs=of, limit=200)]

    def state(self, run: str) -> str:
        return str(self.get(f"/flow_runs/{run}")["state"]["type"])
