"""The command of the card for `medium`: from a hub on loopback to Completed, under `homegrown up`."""

import io
import json
import os
import pydoc_data.topics
import re
import subprocess
import sys
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from homegrown.config.pipelines import PIPELINES
from homegrown.store.artifacts import Store
from tests.corpus.hub_server import serving
from tests.flows.local.project import Project, Ui, until

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for what only Linux does"),
]

DEPLOYMENTS = yaml.safe_load(PIPELINES.read_text())["deployments"]
NAME = "HuggingFaceFW/fineweb-edu"
CARD = """---
configs:
- config_name: sample-10BT
  data_files:
  - {split: train, path: sample/10BT/*}
---
"""
# A step of 400 million parameters takes minutes on two cores; all but the size and the number of steps is of `medium`.
CHANGES = [
    "training.max_steps=3",
    "tokenizer.vocabulary_size=1024",
    "model.hidden=64",
    "model.layers=2",
    "model.heads=2",
    "model.kv_heads=2",
    "model.feed_forward=128",
    "model.context=256",
    "training.batch_size=64",
]


def prose(count: int) -> list[str]:
    """Return documents of sentences drawn from the help topics of the standard library."""
    text = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
    sentences = [part for part in re.findall(r"[A-Z][^.{}]{50,250}\.(?= [A-Z])", text) if part.isascii()]
    random = Random(1)
    return ["\n\n".join(" ".join(random.sample(sentences, 5)) for _ in range(5)) for _ in range(count)]


def parquet(texts: list[str]) -> bytes:
    """Return a file in FineWeb-Edu's layout."""
    urls = [f"https://example.org/{number}" for number in range(len(texts))]
    table = {"text": texts, "id": urls, "url": urls, "language": ["en"] * len(texts), "score": [3.1] * len(texts)}
    stream = io.BytesIO()
    pq.write_table(pa.table(table), stream)
    return stream.getvalue()


def test_medium_from_the_hub_to_completed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (medium,) = (
        one for one in DEPLOYMENTS if (one["name"], one["entrypoint"]) == ("medium", "flows.pretrain.pretrain")
    )
    (project.folder / "pipelines.yaml").write_text(yaml.safe_dump({"deployments": [medium]}))
    (source,) = medium["parameters"]["recipe"]["ingest"]["sources"]
    texts = prose(1500)
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    with serving() as hub:
        shards = {f"sample/10BT/{n:03d}_00000.parquet": parquet(texts[n::3]) for n in range(3)}
        hub.repositories[NAME].commits[source["revision"]] = {"README.md": CARD.encode(), **shards}
        for name, value in {
            "ENDPOINT": hub.address,
            "HOME": str(project.folder / "hub"),
            "HUB_DISABLE_XET": "1",
        }.items():
            monkeypatch.setenv(f"HF_{name}", value)
        log = project.folder / "up.log"
        with log.open("w") as output:
            up = project.homegrown("up", stdout=output, stderr=subprocess.STDOUT)
        until(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll() is not None, "up is ready")
        command = [sys.executable, "-m", "prefect", "deployment", "run", "pretrain/medium", "--watch"]
        environment = os.environ | {"PREFECT_API_URL": f"{project.origin}/api", "PREFECT_HOME": str(project.home)}
        started = [*command, "--param", f"changes={json.dumps(CHANGES)}"]
        subprocess.run(started, cwd=project.folder, env=environment, stdout=subprocess.DEVNULL, check=False)
        ui = Ui(project.origin)
        (run,) = ui.post("/flow_runs/filter", flow_runs={"parent_task_run_id": {"is_null_": True}})
        assert run["state"]["type"] == "COMPLETED", ui.logs({"level": {"ge_": 30}})
        up.terminate()
        assert up.wait() == 0, log.read_text()
    made = {one.manifest.stage: one for one in Store(project.folder / "artifacts").all()}
    assert {"ingest", "dedup", "filter", "shard", "tokenizer", "pack", "pretrain", "quantize", "evaluate"} <= set(made)
    ingested = pq.read_table(made["ingest"].path / "documents")
    assert sorted(ingested["text"].to_pylist()) == sorted(texts)
    assert set(ingested["url"].to_pylist()) == {f"https://example.org/{number}" for number in range(500)}
    assert made["ingest"].manifest.metrics["fineweb-edu_revision"] == source["revision"]
    assert made["filter"].manifest.rows_out > len(texts) / 2
    assert made["pretrain"].manifest.metrics["steps"] == 3
