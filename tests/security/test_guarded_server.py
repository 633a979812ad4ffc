"""The server that we start: by its own name only, and nothing from elsewhere on its pages."""

import json
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4200", "127.0.0.1.evil.example", ""])
def test_a_request_for_another_host_is_refused(prefect_server: str, host: str) -> None:
    for path in ("/health", "/csrf-token?client=x", "/flow_runs/filter"):
        assert httpx.get(f"{prefect_server}{path}", headers={"Host": host}, timeout=60).status_code == 400


def test_its_own_names_are_answered(prefect_server: str) -> None:
    port = prefect_server.removesuffix("/api").rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]:4200"):
        assert httpx.get(f"{prefect_server}/health", headers={"Host": host}, timeout=60).status_code == 200


def test_pages_may_ask_nobody_else(prefect_server: str) -> None:
    for path in ("/", "/runs", "/api/health"):
        answer = httpx.get(f"{prefect_server.removesuffix('/api')}{path}", follow_redirects=True, timeout=60)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'")
        assert "://" not in policy and "*" not in policy


def test_lists_of_workers_and_blocks_come_out_of_the_package(prefect_server: str) -> None:
    from prefect.server.api import collections

    views = f"{prefect_server}/collections/views"
    packaged = Path(collections.__file__).parent / "collections_data" / "views" / "aggregate-worker-metadata.json"
    answer = httpx.get(f"{views}/aggregate-worker-metadata", timeout=60)
    assert answer.json() == json.loads(packaged.read_text())
    assert httpx.get(f"{views}/aggregate-block-metadata", timeout=60).status_code == 404
