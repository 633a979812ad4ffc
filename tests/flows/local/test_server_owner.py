"""Whose server answers at a local address: real processes of this user and of another."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.local import server, server_owner
from homegrown.util.users import user_name
from tests.flows.local.project import write_deployments
from tests.flows.small import write_corpus
from tests.other_user import EVE, needs_root, started

pytestmark = pytest.mark.slow


class Health(BaseHTTPRequestHandler):
    """Answers like a Prefect server that is asked for its health."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def serve(address: tuple[str, int]) -> None:
    ThreadingHTTPServer(address, Health).serve_forever()


@pytest.fixture
def eves() -> Iterator[str]:
    """The address of a server that another user runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = started(EVE, serve, ("0.0.0.0", port))
    api = f"http://127.0.0.1:{port}/api"
    while not server.answers(api):
        assert process.is_alive()
    yield api
    process.kill()
    process.join()


@needs_root
def test_a_server_of_another_user_is_used_only_if_it_is_named(
    eves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "data")
    write_deployments(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'[tool.prefect]\napi.url = "{eves}"\n')
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(Path.cwd())}
    refusal = (
        f"Error: The Prefect server at {eves} belongs to the user {EVE}; choose another port with "
        "PREFECT_API_URL=http://127.0.0.1:PORT/api.\n"
    )

    def homegrown(*arguments: str) -> str:
        command = [sys.executable, "-m", "homegrown.cli.main", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    assert homegrown("run", "tiny", "--until", "ingest") == refusal
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={eves}\n")
    assert homegrown("up") == refusal  # the deployments of both would be mixed
    monkeypatch.chdir(tmp_path)
    settings = temporary_settings({PREFECT_API_URL: eves, PREFECT_HOME: tmp_path / "prefect"})
    with settings, server.running(tmp_path / "server.log") as used:
        assert used == eves
        assert server_owner.other_user(eves) == str(EVE)
    assert not (tmp_path / "server.log").exists()


def test_ones_own_server_is_used(prefect_server: str) -> None:
    assert server_owner.other_user(prefect_server) is None
    server_owner.check(prefect_server, may_choose=False)


@pytest.mark.parametrize("variables", [{}, {"PREFECT_API_URL": ""}], ids=["unset", "empty"])
def test_clients_outside_of_a_projects_folder_use_the_server_too(variables: dict[str, str], tmp_path: Path) -> None:
    """Without an address, Prefect starts a server in each process, which times out on a busy machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    program = (
        "from flows.local import server\nfrom prefect import get_client\n"
        "client = get_client(sync_client=True)\nprint(server.address(), client.server_type.name, client.api_url)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    default = "http://127.0.0.1:4200/api"
    assert done.stdout.split() == [default, "SERVER", f"{default}/"]


def test_each_user_of_a_shared_store_has_a_log(tmp_path: Path) -> None:
    assert server.log_of(tmp_path / ".state") == tmp_path / ".state" / "server.log"
    tmp_path.chmod(0o2775)
    assert server.log_of(tmp_path / ".state") == tmp_path / ".state" / f"server-{user_name()}.log"
