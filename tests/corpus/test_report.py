"""The report of a corpus: its figures against the stages' own, its examples, and nothing unescaped."""

import json
import re
from concurrent.futures import Executor
from pathlib import Path

import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.config.corpus import DedupSettings
from homegrown.config.filter import FilterSettings
from homegrown.corpus.account import account, latest_chain
from homegrown.corpus.dedup import dedup
from homegrown.corpus.filter import filter_documents
from homegrown.corpus.ingest import ingest
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.errors import UserError
from tests.corpus.made_up import corpus, files
from tests.reporting.page import Page

HOSTILE = "<script>alert('x')</script> & <b>bold</b>"


@pytest.fixture
def made(store: Store, tmp_path: Path, executor: Executor) -> Store:
    """A store with a chain of artifacts up to filter; 30 documents are too short, and two lines are unreadable."""
    texts = [*corpus(5), *(f"{HOSTILE} {number}" for number in range(30)), f"{HOSTILE} dâ€™accord"]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("\n".join([*(json.dumps({"text": text}) for text in texts), '{"text": 3}', f"{HOSTILE}"]))
    settings = FilterSettings(
        min_characters=100,
        max_characters=10**6,
        min_alphabetic_share=None,
        gopher_quality=None,
        gopher_repetition=None,
        c4=None,
        fineweb=None,
    )

    first = Order("ingest", "code", {}, {})
    read, _ = store.make(first, store.slot("ingest", first.key), lambda out: ingest(out, files(raw), executor=executor))
    second = Order("dedup", "code", {}, {"ingest": first.key})
    unique, _ = store.make(
        second,
        store.slot("dedup", second.key),
        lambda out: dedup(out, read.path, DedupSettings(), seed=1, memory_gb=1, executor=executor),
    )
    third = Order("filter", "code", {}, {"dedup": second.key})
    store.make(
        third,
        store.slot("filter", third.key),
        lambda out: filter_documents(out, unique.path, settings, executor=executor),
    )
    return store


def test_the_account_is_what_the_stages_say(made: Store, tmp_path: Path) -> None:
    chain = latest_chain(made)
    assert list(chain) == ["ingest", "dedup", "filter"]
    found = account(chain, tmp_path / "spill")
    assert [step.documents for step in found.steps] == [artifact.manifest.rows_out for artifact in chain.values()]
    assert sum(found.lengths["ingest"].values()) == found.steps[0].documents
    rules = {rule.name: rule for rule in found.rules}
    short = rules["min_characters"]
    assert short.dropped == short.failed == found.steps[1].documents - found.steps[2].documents > 20
    assert len({example.id for example in short.examples}) == 20
    assert all(example.value < example.threshold == 100 and HOSTILE in example.text for example in short.examples)
    assert sum(found.duplicates.values()) == found.steps[0].documents - found.steps[1].documents > 0
    assert found.clusters[0].size == max(cluster.size for cluster in found.clusters) > 1
    assert any(cluster.kept != cluster.dropped and cluster.similarity < 1 for cluster in found.clusters)
    assert sum(reason.count for reason in found.quarantine) == 2
    assert [list(one.values()) for one in found.inputs] == [["raw", 1, 0, found.steps[0].documents, 2, 0, 0, 1, 0]]
    [(source, repaired, [(place, before, after)])] = found.repairs
    assert (source, repaired, place) == ("raw", 1, f"raw.jsonl:{found.steps[0].documents}")
    assert before.endswith("dâ€™accord") and after.endswith("d’accord")
    assert account(chain, tmp_path / "spill") == found


def test_the_page_is_whole_and_everything_in_it_is_escaped(made: Store, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = CliRunner().invoke(cli, ["--artifacts", str(made.root), "report", "corpus", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "ingest@1 → dedup@1 → filter@1" in result.output
    page = out.read_text(encoding="utf-8")
    parsed = Page.of(page)
    assert not set(parsed.tags) & {"script", "b", "link", "iframe", "object"}
    assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(https?:)?//", page)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &lt;b&gt;" in page


def test_without_a_corpus_it_says_what_to_run(store: Store) -> None:
    with pytest.raises(UserError, match="homegrown run tiny --until shard"):
        latest_chain(store)
