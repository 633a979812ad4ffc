"""Notifications of runs, by the program in the documentation, to a webhook on this machine."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect import flow, get_client
from prefect.settings import get_current_settings

from homegrown.store.artifacts import Store
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PAGE = Path("docs/operations.md")


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a webhook, and the messages that it has received."""
    received: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()
        thread.join()


@flow(flow_run_name="{name}", persist_result=False)
def works(name: str, fails: bool) -> None:
    if fails:
        raise ValueError('the disk is "full"')


def test_finished_and_failed_runs_are_told_to_a_webhook(
    in_prefect: Store, hook: tuple[str, list[dict[str, str]]]
) -> None:
    url, received = hook
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert "https://ntfy.sh/my-topic" in program
    api = str(get_current_settings().api.url)
    run = [sys.executable, "-c", program.replace("https://ntfy.sh/my-topic", url)]
    for _ in range(2):  # the second time replaces the first
        subprocess.run(run, check=True, env={"PREFECT_API_URL": api, "PATH": "/usr/bin:/bin", "HOME": str(Path.home())})
    try:
        works("finishes", fails=False)
        with pytest.raises(ValueError, match="full"):
            works("fails", fails=True)
        wait_for(lambda: len(received) >= 2)
    finally:
        with get_client(sync_client=True) as client:
            (automation,) = client.read_automations_by_name("homegrown: notify")
            client.delete_automation(automation.id)
    texts = sorted(message["text"] for message in received)
    assert texts[0].startswith('fails: Failed, Flow run encountered an exception: ValueError: the disk is "full"')
    assert texts[1].startswith("finishes: Completed")
    assert len(texts) == 2
    assert all("/runs/flow-run/" in text for text in texts)
