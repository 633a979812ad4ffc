"""A password on the server and secrets of stores, really: what asks without is refused, and nothing keeps them."""

import base64
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import yaml
from click.testing import CliRunner
from prefect import get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from homegrown.cli.main import cli
from homegrown.config.pipelines import PIPELINES
from tests.cluster.conftest import bucket, s3_environment, s3_server  # noqa: F401
from tests.flows.local.conftest import project  # noqa: F401
from tests.flows.local.project import Project, until
from tests.flows.small import small_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of running processes"),
]

PASSWORD = "me:pa55-of-the-server"
STORE_SECRET = "pa55-of-the-store"
SITE_PASSWORD = "reader:pa55-of-the-site"
SITE_HEADER = "Basic " + base64.b64encode(SITE_PASSWORD.encode()).decode()
_PIPELINES = PIPELINES.read_text()

# Loaded by every Python process of the project: whom it talks to, and which secret of a store it was given.
_WATCH = """
import hashlib, json, os, sys
_file = os.environ.get("HOMEGROWN_TEST_WATCH")
if _file:
    def _note(**facts):
        with open(_file, "a") as file:
            file.write(json.dumps(facts) + "\\n")
    def _hook(event, arguments):
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            _note(host=str(arguments[1][0]))
        elif event == "socket.getaddrinfo":
            _note(host=str(arguments[0]))
    _note(secret=hashlib.sha256(os.environ.get("AWS_SECRET_ACCESS_KEY", "").encode()).hexdigest())
    sys.addaudithook(_hook)
"""


class _Site(http.server.BaseHTTPRequestHandler):
    """A web server that wants a password for its one file."""

    text = json.dumps({"text": "A text on a site that wants a password. " * 20}).encode() + b"\n"

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.text)

    def _answer(self, body: bytes) -> None:
        if self.headers.get("Authorization") != SITE_HEADER:
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def watch(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    (project.folder / "hook").mkdir()
    (project.folder / "hook" / "sitecustomize.py").write_text(_WATCH)
    monkeypatch.syspath_prepend(project.folder / "hook")
    file = project.folder / "watched.jsonl"
    monkeypatch.setenv("HOMEGROWN_TEST_WATCH", str(file))
    return file


def write_pipelines(folder: Path, bucket: str, site: str) -> None:  # noqa: F811
    sources = [
        {"kind": "files", "name": "store", "path": f"{bucket}/a.jsonl"},
        {"kind": "files", "name": "site", "path": f"{site}/b.jsonl"},
    ]
    recipe = small_recipe(folder, f"ingest.sources={json.dumps(sources)}").model_dump(mode="json")
    deployment = yaml.safe_load(_PIPELINES)["deployments"][0]
    deployment |= {"parameters": {"recipe": recipe, "until": "ingest", "force": [], "changes": []}}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"deployments": [deployment]}))


def test_a_password_and_the_secrets_of_stores_are_asked_for_and_kept_nowhere(
    project: Project,  # noqa: F811
    bucket: str,  # noqa: F811
    site: str,
    watch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    texts = b"".join(json.dumps({"text": f"Text number {n} of the store. " * 20}).encode() + b"\n" for n in range(9))
    s3fs.S3FileSystem().pipe(f"{bucket}/a.jsonl", texts)
    write_pipelines(project.folder, bucket, site)
    for name, value in {
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_API_AUTH_STRING": PASSWORD,
        "FSSPEC_HTTP": json.dumps({"client_kwargs": {"headers": {"Authorization": SITE_HEADER}}}),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")  # it comes out of a block

    log = project.folder / "up.log"
    with log.open("w") as output:
        up = project.homegrown("up", stdout=output, stderr=subprocess.STDOUT)
    until(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll() is not None, "up is ready")
    assert up.poll() is None, log.read_text()

    _the_server_asks_for_it(project)
    with temporary_settings({PREFECT_API_URL: f"{project.origin}/api", PREFECT_API_AUTH_STRING: PASSWORD}):
        Secret(value=STORE_SECRET).save("store")
        with get_client(sync_client=True) as client:
            template = client.read_work_pool("homegrown").base_job_template
            template["variables"]["properties"]["env"]["default"] = {
                "AWS_SECRET_ACCESS_KEY": "{{ prefect.blocks.secret.store }}"
            }
            client.update_work_pool("homegrown", WorkPoolUpdate(base_job_template=template))
    commands = _a_deployed_run(project)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", STORE_SECRET)
    here = project.homegrown("run", "tiny", "--until", "ingest", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = here.communicate(timeout=400)[0]
    assert here.returncode == 0 and "cached" in printed, printed
    (project.folder / "run.log").write_text(printed)

    up.send_signal(signal.SIGTERM)
    assert up.wait(200) == 0, log.read_text()
    watched = [json.loads(line) for line in watch.read_text().splitlines()]
    assert hashlib.sha256(STORE_SECRET.encode()).hexdigest() in {facts.get("secret") for facts in watched}
    assert {facts["host"] for facts in watched if "host" in facts} <= {"127.0.0.1", "localhost", "::1", "None"}
    assert [word for command in commands for word in _forms() if word in command.encode()] == []
    kept = {path.relative_to(project.folder).as_posix(): path.read_bytes() for path in _files(project.folder)}
    assert any(name.startswith("prefect/prefect.db") for name in kept)
    assert any(name.endswith("manifest.json") for name in kept)
    assert [(name, word) for name, content in kept.items() for word in _forms() if word in content] == []


def _the_server_asks_for_it(project: Project) -> None:  # noqa: F811
    settings = f"{project.origin}/api/admin/settings"
    assert httpx.get(settings, timeout=60).status_code == 401
    assert httpx.get(settings, timeout=60, auth=("me", "guessed")).status_code == 401
    answer = httpx.get(settings, timeout=60, auth=tuple(PASSWORD.split(":", 1)))  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert not any(word in answer.content for word in _forms())
    with mock.patch.dict(os.environ):
        del os.environ["PREFECT_API_AUTH_STRING"]
        for command in (["status"], ["run", "tiny"]):
            refused = CliRunner().invoke(cli, command)
            assert refused.exit_code == 1
            said = "requires a password; set PREFECT_API_AUTH_STRING in the environment."
            assert refused.output.strip().endswith(said), refused.output
    with temporary_settings({PREFECT_API_AUTH_STRING: PASSWORD}):
        assert "deployments  pretrain/tiny" in CliRunner().invoke(cli, ["status"]).output


def _a_deployed_run(project: Project) -> set[str]:  # noqa: F811
    """Run the deployment by Prefect's own command; return the command lines of all processes seen meanwhile."""
    environment = os.environ | {"PREFECT_API_URL": f"{project.origin}/api", "PREFECT_HOME": str(project.home)}
    command = [sys.executable, "-m", "prefect", "deployment", "run", "pretrain/tiny", "--watch"]
    with (project.folder / "watch.log").open("w") as output:
        asked = subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    seen: set[str] = set()
    until(lambda: seen.update(project.processes().values()) or asked.poll() is not None, "the run ends")
    assert asked.returncode == 0, (project.folder / "watch.log").read_text()
    assert any("prefect.engine" in command for command in seen)
    return seen


def _forms() -> set[bytes]:
    """Return every form in which a secret may be written."""
    plain = {PASSWORD, PASSWORD.split(":")[1], STORE_SECRET, SITE_PASSWORD, SITE_PASSWORD.split(":")[1]}
    return {text.encode() for text in plain} | {base64.b64encode(text.encode()) for text in plain}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path
