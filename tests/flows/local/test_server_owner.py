"""Whose server answers at a local address: real processes of this user, of another, and with another Prefect home."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.local import server, server_owner, server_users
from homegrown.cli.main import cli
from homegrown.util.errors import UserError
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


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def eves(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that another user runs."""
    served = HTTPServer((request.param, 0), Health, bind_and_activate=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        served.server_address = (request.param, free.getsockname()[1])

    def serve() -> None:  # the socket belongs to the user who makes it
        served.socket = socket.create_server(served.server_address)
        served.serve_forever()

    pid = started(EVE, serve)
    api = f"http://127.0.0.1:{served.server_address[1]}/api"
    try:
        while not server.answers(api):
            assert psutil.pid_exists(pid)
        yield api
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        served.socket.close()


@needs_root
def test_a_server_of_another_user_is_used_only_if_it_is_named(
    eves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    write_corpus(tmp_path / "project" / "data")
    write_deployments(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    refusal = f"The Prefect server at {eves} belongs to the user {EVE}; choose another port with PREFECT_API_URL="
    with temporary_settings({PREFECT_API_URL: eves, PREFECT_HOME: tmp_path / "prefect"}):
        assert f"Error: {refusal}" in CliRunner().invoke(cli, ["run", "tiny", "--until", "ingest"]).output
        (Path.cwd() / ".env").write_text(f"PREFECT_API_URL={eves}\n")
        with server.running(tmp_path / "server.log") as used:
            assert used == eves
            assert server_owner.other_user(eves) == str(EVE)
        # The deployments of both would be mixed. This command ends all children of its process, Eve's server too.
        assert f"Error: {refusal}" in CliRunner().invoke(cli, ["up"]).output
    assert not (tmp_path / "server.log").exists()


def test_ones_own_server_is_used(prefect_server: str) -> None:
    assert server_owner.other_user(prefect_server) is None
    with server_users.registered(server_users.folder_of(prefect_server)) as user:
        server_owner.check(prefect_server, user, may_choose=False)


def test_a_server_with_another_prefect_home_is_refused(prefect_server: str, tmp_path: Path) -> None:
    home = server_users.folder_of(prefect_server).parents[1]
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}):
        refused = pytest.raises(UserError, match=f"{prefect_server} has another PREFECT_HOME, {home}; set the same")
        with refused, server.running(tmp_path / "server.log"):
            pass
        assert not (tmp_path / "server.log").exists()
