"""Hub datasets by the true `datasets` and `huggingface_hub`, from a server on loopback with the hub's API.

The libraries take the server's address from the environment when they are imported, so a process of its own ingests.
"""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homegrown.corpus import hub
from homegrown.util.files import parquet_parts
from tests.corpus.hub_server import Files, Hub, serving

NAME = "HuggingFaceFW/fineweb-edu"
SHARDS, ROWS = 3, 300
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/*/*}
- config_name: sample-10BT
  data_files:
  - {split: train, path: sample/10BT/*}
---
# FineWeb-Edu
"""
WORKER = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from homegrown.config.corpus import IngestSettings
from homegrown.corpus import hub, sources
from homegrown.corpus.ingest import ingest
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError

hub._WAITS = (0.1, 0.2, 0.3)
for line in sys.stdin:
    order = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(order["environment"])
    settings = IngestSettings.model_validate(order["settings"])
    try:
        with ThreadPoolExecutor(4) as executor, Digests(Path(order["out"]).with_suffix(".sqlite")) as digests:
            content = sources.content(settings, digests)
            outcome = ingest(Path(order["out"]), settings, executor=executor)
        answer = {"content": content, "metrics": outcome.metrics}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""
Ingest = Callable[..., dict[str, Any]]


def texts(shard: int, version: int = 1) -> list[str]:
    return [f"version {version}, shard {shard}, row {row}: {'some text ' * (row % 40)}end" for row in range(ROWS)]


def parquet(rows: list[str]) -> bytes:
    """Return a file with FineWeb-Edu's columns, uncompressed, in several row groups."""
    count = range(len(rows))
    table = {
        "text": rows,
        "id": [f"<urn:uuid:{number}>" for number in count],
        "dump": ["CC-MAIN-2024-10"] * len(rows),
        "url": [f"https://example.org/{number}" for number in count],
        "file_path": ["s3://commoncrawl/x.warc.gz"] * len(rows),
        "language": ["en"] * len(rows),
        "language_score": [0.97] * len(rows),
        "token_count": [len(text.split()) for text in rows],
        "score": [3.1] * len(rows),
        "int_score": [3] * len(rows),
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(table), stream, row_group_size=100, compression="none")
    return stream.getvalue()


def files(version: int = 1) -> Files:
    shards = {f"sample/10BT/{n:03d}_00000.parquet": parquet(texts(n, version)) for n in range(SHARDS)}
    shards["sample/10BT/003_00000.parquet"] = parquet([])
    return {
        "README.md": CARD.encode(),
        "data/CC-MAIN-2024-10/train-00000-of-00001.parquet": parquet(["other"]),
        **shards,
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def worker(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    (home / "token").write_text("of-a-login")  # what `hf auth login` leaves behind
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    yield process
    process.stdin.close()  # type: ignore[union-attr]
    process.wait(timeout=60)


@pytest.fixture
def ingest(server: Hub, worker: subprocess.Popen[str]) -> Ingest:
    server.repositories.clear()
    server.faults.clear()
    server.requests.clear()
    server.tokens.clear()
    server.repositories[NAME].push(files())

    def call(out: Path, environment: dict[str, str] | None = None, limit_mb: float | None = None, **source: Any) -> Any:
        default = {"kind": "hub", "dataset": NAME, "config": "sample-10BT"}
        named = {"name": "web", "limit_mb": limit_mb, **(source or default)}
        settings = {"sources": [named], "shard_mb": 1}
        order = {"out": str(out), "settings": settings, "environment": environment or {}}
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(json.dumps(order), file=worker.stdin, flush=True)
        return json.loads(worker.stdout.readline())

    return call


def documents(out: Path) -> list[tuple[str, int, str]]:
    rows = [row for part in parquet_parts(out / "documents") for row in pq.read_table(part).to_pylist()]
    return [(row["path"], row["position"], row["text"]) for row in rows]


def expected(version: int = 1) -> list[tuple[str, int, str]]:
    names = [f"sample/10BT/{n:03d}_00000.parquet" for n in range(SHARDS)]
    return [(names[n], row, text) for n in range(SHARDS) for row, text in enumerate(texts(n, version), 1)]


def downloads(server: Hub) -> list[str]:
    return [path for method, path, _ in server.requests if method == "GET" and path.startswith("/storage/")]


def test_a_configuration_is_read_file_by_file(server: Hub, ingest: Ingest, tmp_path: Path) -> None:
    answer = ingest(tmp_path / "out")
    assert documents(tmp_path / "out") == expected()
    assert answer["metrics"]["web_revision"] == server.repositories[NAME].names["main"]
    urls = [
        url for part in parquet_parts(tmp_path / "out" / "documents") for url in pq.read_table(part)["url"].to_pylist()
    ]
    assert urls == [f"https://example.org/{row}" for row in range(ROWS)] * SHARDS
    assert not server.tokens  # that of a login is not sent


@pytest.mark.parametrize(
    ("pattern", "statuses"),
    [
        (r"^/storage/", [0]),  # the library asks again
        (r"^/storage/", [520, 0, 520]),  # and here gives up
        (r"/resolve/.*\.parquet$", [503, 429]),
        (r"^/api/datasets/[^/]*/[^/]*$", [520]),
    ],
)
def test_lost_connections_and_busy_servers_cost_no_row(
    server: Hub, ingest: Ingest, tmp_path: Path, pattern: str, statuses: list[int]
) -> None:
    server.faults = {pattern: list(statuses)}
    assert "error" not in ingest(tmp_path / "out")
    assert server.faults == {pattern: []}
    assert documents(tmp_path / "out") == expected()


def test_a_hub_that_stays_away_is_an_error_and_the_next_run_resumes_at_the_shard(
    server: Hub, ingest: Ingest, tmp_path: Path
) -> None:
    last = server.repositories[NAME].commits[server.repositories[NAME].names["main"]]["sample/10BT/002_00000.parquet"]
    server.faults = {r"002_00000\.parquet$": [520] * 100}
    answer = ingest(tmp_path / "out")
    assert "sample/10BT/002_00000.parquet cannot be read from row 1 on" in answer["error"]
    server.faults.clear()
    server.requests.clear()
    server.repositories[NAME].push(files(version=2))  # the branch moves meanwhile
    ingest(tmp_path / "out")
    assert documents(tmp_path / "out") == expected()
    import hashlib

    assert set(downloads(server)) == {f"/storage/{hashlib.sha256(last).hexdigest()}"}


def test_a_moved_branch_is_another_content_and_a_commit_is_not(server: Hub, ingest: Ingest, tmp_path: Path) -> None:
    source = {"kind": "hub", "dataset": NAME, "config": "sample-10BT"}
    first = server.repositories[NAME].names["main"]
    before = ingest(tmp_path / "before", **source, revision="main")
    second = server.repositories[NAME].push(files(version=2))
    after = ingest(tmp_path / "after", **source, revision="main")
    fixed = ingest(tmp_path / "fixed", **source, revision=first)
    assert documents(tmp_path / "after") == expected(version=2)
    assert documents(tmp_path / "fixed") == documents(tmp_path / "before") == expected()
    assert before["content"] == fixed["content"] != after["content"]
    assert [answer["metrics"]["web_revision"] for answer in (before, after, fixed)] == [first, second, first]


def test_a_gated_dataset_needs_a_token_of_the_environment(server: Hub, ingest: Ingest, tmp_path: Path) -> None:
    server.repositories[NAME].token = "hf_secret"
    refused = ingest(tmp_path / "refused")
    assert refused["error"] == f"Dataset {NAME} is gated; accept its terms on the hub, and set HF_TOKEN."
    ingest(tmp_path / "out", {"HF_TOKEN": "hf_secret"})
    assert documents(tmp_path / "out") == expected()
    assert server.tokens == {"hf_secret"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in content for content in written)


def test_a_revision_that_is_not_there_is_named(ingest: Ingest, tmp_path: Path) -> None:
    source = {"kind": "hub", "dataset": NAME, "config": "sample-10BT", "revision": "v9"}
    answer = ingest(tmp_path / "out", **source)
    assert answer["error"] == f"Dataset {NAME} has no revision 'v9'; name a branch, tag or commit."


def test_a_dataset_without_files_is_an_error(server: Hub, ingest: Ingest, tmp_path: Path) -> None:
    server.repositories[NAME].push({"README.md": b"# Nothing yet"})
    answer = ingest(tmp_path / "out", kind="hub", dataset=NAME)
    assert answer["error"].startswith(f"Dataset {NAME} cannot be opened: ")
    assert "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        (timedelta(minutes=30), 6, 1800),  # a date, which the processes of a test run must not have in the test's name
        ("Wed, 21 Oct 2015 07:28:00 GMT", 5, 5),
        ("soon", 5, 5),
        ("86400", 0, 0),  # is not waited for
    ],
)
def test_the_hub_names_the_time_to_wait(
    monkeypatch: pytest.MonkeyPatch, asked: str | timedelta, least: int, most: int
) -> None:
    slept = [0.0]
    if isinstance(asked, timedelta):
        asked = format_datetime(datetime.now(UTC) + asked, usegmt=True)
    monkeypatch.setattr(time, "sleep", slept.append)
    error = OSError("busy")
    error.response = SimpleNamespace(status_code=429, headers={"Retry-After": asked})  # type: ignore[attr-defined]
    assert hub._wait(error, iter([5.0])) == (most > 0)
    assert least <= slept[-1] <= most


def test_a_limit_reads_no_more_shards_than_are_in_flight(server: Hub, ingest: Ingest, tmp_path: Path) -> None:
    ingest(tmp_path / "out", limit_mb=0.01)
    read = documents(tmp_path / "out")
    assert read == expected()[: len(read)]
    assert 0 < len(read) < ROWS


def test_addresses_of_the_hub_are_read_by_fsspec(server: Hub, ingest: Ingest, tmp_path: Path) -> None:
    commit = server.repositories[NAME].names["main"]
    path = f"hf://datasets/{NAME}@{commit}/sample/10BT"
    server.faults = {r"^/storage/": [0]}
    assert "error" not in ingest(tmp_path / "out", kind="files", path=path)
    assert [text for _, _, text in documents(tmp_path / "out")] == [text for _, _, text in expected()]
