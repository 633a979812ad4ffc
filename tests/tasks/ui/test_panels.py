"""The page of each stage: its figures are the manifest's and the tables', its pictures are pictures."""

import base64
import io
import json
import os
import re
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prefect.settings import PREFECT_UI_URL, temporary_settings

from homegrown.evaluation.results import Continuation, Facts, Memory, Report, Result
from homegrown.reporting import charts
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Manifest
from homegrown.training.job import CURVE, SAMPLES
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric
from tasks import dedup, evaluate, filter, ingest, merge, pretrain, quantize, shard, tokenizer
from tasks.ui import panels
from tasks.ui.markdown import address, link, quoted, table


def artifact(root: Path, stage: str, rows_in: int, rows_out: int, inputs: Any = (), **metrics: Metric) -> Artifact:
    manifest = Manifest(
        stage=stage,
        version=1,
        key=stage,
        settings={"settings": {"sources": [{"name": "books"}, {"name": "notes"}]}},
        inputs=dict(inputs),
        code="",
        libraries={},
        host={},
        started=datetime.now(UTC),
        seconds=75,
        rows_in=rows_in,
        rows_out=rows_out,
        unit="documents",
        metrics=metrics,
        files={},
    )
    folder = root / stage / f"1-{manifest.key}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return Artifact(folder, manifest)


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_parquet(folder / "part-00000.parquet", pa.Table.from_pylist(rows))


def check(markdown: str, pictured: int) -> None:
    """Every row of a table has as many cells as its head; every picture opens; every fence is closed."""
    width = 0
    for line in markdown.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells in (0, width or cells), line
        width = cells
    found = re.findall(r"!\[[^]]+\]\(data:image/png;base64,([^)]+)\)", markdown)
    assert len(found) == pictured
    for data in found:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width > 300
    assert len(re.findall(r"^```", markdown, re.MULTILINE)) % 2 == 0


def test_ingest_shows_sources_and_unreadable_input(tmp_path: Path) -> None:
    made = artifact(tmp_path, "ingest", 1240, 1234, books_documents=1000, notes_documents=234, quarantined=3)
    faults = [("a.pdf", 1, "line 17 is no text"), ("b.pdf", 2, "line 40 is no text"), ("c", 0, "empty")]
    rows = [{"source": "books", "path": path, "position": at, "reason": why} for path, at, why in faults]
    write(made.path / "quarantine", rows)
    counts = {"files": 7, "skipped": 2, "documents": 1000, "quarantined": 3, "left_out": 0, "invalid_bytes": 0}
    sources = pa.Table.from_pylist([{"source": "books", **counts, "repaired": 1}])
    pq.write_table(sources, made.path / "sources.parquet")
    report = ingest._report(made)
    check(report, pictured=1)
    assert "| books | 7 | 2 | 1,000 | 3 | 0 | 1 |" in report
    assert "| books | 1,000 | 81.0% |" in report
    assert "| notes | 234 | 19.0% |" in report
    assert re.search(r"^ +2  line … is no text\n +a.pdf:1$", report, re.MULTILINE)


def test_dedup_shows_the_similarity_of_duplicates(tmp_path: Path) -> None:
    made = artifact(tmp_path, "dedup", 200, 190, exact_duplicates=4, near_duplicates=6, clusters=5, largest_cluster=3)
    near = [0.7, 0.71, 0.9, 1.0, 1.0, 1.0]
    rows = [{"kind": "near", "similarity": one} for one in near] + [{"kind": "exact", "similarity": 1.0}] * 4
    place = {"path": "x", "position": 1, "duplicate_of": "kept"}
    write(made.path / "dropped", [row | place | {"id": f"id{number}"} for number, row in enumerate(rows)])
    report = dedup._report(made)
    check(report, pictured=1)
    assert "| exact | 4 | 2.0% |" in report
    assert "| near | 6 | 3.0% |" in report
    assert (
        report.index("id0 duplicates kept") < report.index("id1 duplicates kept") < report.index("id2 duplicates kept")
    )
    counts, low = dedup._histogram(near)
    assert (counts[0], counts[-1], sum(counts), low) == (2, 3, len(near), 0.7)


def test_filter_shows_rules_by_what_they_dropped_with_examples(tmp_path: Path) -> None:
    made = artifact(tmp_path, "filter", 400, 390)
    counts = [
        ("min_characters", 200.0, 1, 1, 0),
        ("c4.max_curly_brackets", 0.0, 9, 12, 8),
        ("max_characters", 5e5, 0, 0, 0),
    ]
    columns = ("rule", "threshold", "dropped", "failed", "alone")
    write(made.path / "rules", [dict(zip(columns, one, strict=True)) for one in counts])
    write(made.path / "overlap", [{"rule": "min_characters", "other": "c4.max_curly_brackets", "both": 1}])
    write(made.path / "by_source", [{"source": name, "documents": 200, "kept": 195} for name in ("web", "books")])
    text = "a | b ```\n" * 100
    example = {"id": "d1", "rule": "c4.max_curly_brackets", "value": 7.0, "threshold": 0.0, "text_start": text}
    write(made.path / "dropped", [example])
    report = filter._report(made)
    check(filter._excerpt(made), pictured=1)
    assert "| min characters | c4: max curly brackets | 1 |" in report
    assert "| web | 200 | 195 | 97.5% |" in report
    assert report.index("| c4: max curly brackets | 0 | 9 | 2.2% | 12 | 8 |") < report.index(
        "| min characters | 200 | 1 |"
    )
    assert "No document fails `max_characters`." in report
    assert "`c4.max_curly_brackets`: measured 7, threshold 0, document d1" in report
    assert "````text\na | b ```\n" in report


def test_shard_shows_the_funnel_of_the_stages_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact(tmp_path, "ingest", 1000, 1000)
    artifact(tmp_path, "dedup", 1000, 800, [("ingest", "ingest")])
    artifact(tmp_path, "filter", 800, 600, [("dedup", "dedup")])
    splits = {f"{split}_documents": count for split, count in (("train", 500), ("validation", 60), ("test", 30))}
    sizes = {f"{split}_bytes": 2_500_000 for split in ("train", "validation", "test")}
    dropped = {"dropped_near_validation": 4, "dropped_near_test": 6, "dropped_contaminated": 0}
    made = artifact(tmp_path, "shard", 600, 590, [("filter", "filter")], **splits, **sizes, **dropped)
    drawn: list[Any] = []
    bars = charts.bars
    monkeypatch.setattr(charts, "bars", lambda *drawing: drawn.append(drawing) or bars(*drawing))
    report = shard._report(made)
    check(report, pictured=1)
    names, counts, notes, _ = drawn[0]
    assert list(zip(names, counts, strict=True)) == [
        ("read", 1000),
        ("deduplicated", 800),
        ("filtered", 600),
        ("in shards", 590),
    ]
    assert notes == ["1,000", "800  (−200, 20.0%)", "600  (−200, 25.0%)", "590  (−10, 1.7%)"]
    assert "| train | 500 | 2.5 MB |" in report
    assert "| similar to a test document | 6 |" in report


def test_tokenizer_shows_sources_languages_and_tokens(tmp_path: Path) -> None:
    made = artifact(tmp_path, "tokenizer", 3000, 4)
    totals = {"documents": 3000, "bytes": 90_000_000, "tokens": 30_000_000, "bytes_per_token": 3.0}
    write(made.path / "sources", [{"source": "books"} | totals])
    write(made.path / "languages", [{"language": "pl"} | totals])
    tokens = zip([0, 1, 2, 3], ["<s>", "a", "`\n`", "long"], [0, 1, 3, 4], [0, 0, 5, 2], strict=True)
    write(made.path / "vocabulary", [dict(zip(("id", "token", "bytes", "count"), one, strict=True)) for one in tokens])
    report = tokenizer._report(made)
    check(report, pictured=0)
    assert "| books | 3,000 | 90 MB | 30,000,000 | 3 |" in report
    assert "| pl | 3,000 | 90 MB | 30,000,000 | 3 |" in report
    assert report.index("'long'") < report.index("\\n") < report.index("'a'")
    assert "all but 1 of 4 tokens" in report


def test_pretrain_shows_the_curve_and_samples_as_they_improve(tmp_path: Path) -> None:
    made = artifact(tmp_path, "pretrain", 1, 1)
    assert pretrain._live(made.path) is None
    (made.path / CURVE).write_bytes(charts.bars(["a"], [1.0], ["1"], "A curve"))
    check(str(pretrain._live(made.path)), pictured=1)  # the curve is there before the first sample
    samples = [{"step": step, "prompt": "Return", "text": f" what\nis at {step}"} for step in range(100, 1300, 100)]
    write_parquet(made.path / SAMPLES, pa.Table.from_pylist(samples))
    live, report = str(pretrain._live(made.path)), pretrain._report(made)
    assert re.findall(r"at step ([\d,]+)", live) == ["1,200"]
    assert "```text\n what\nis at 1200\n```" in live
    assert re.findall(r"[Ss]tep ([\d,]+)", report) == ["1,200", "900", "600", "300"]
    assert "Return what is at 600" in report
    assert "Prompt ` Return `:" in live


def test_a_prompt_longer_than_a_line_is_a_block(tmp_path: Path) -> None:
    made = artifact(tmp_path, "finetune", 1, 1)
    (made.path / CURVE).write_bytes(charts.bars(["a"], [1.0], ["1"], "A curve"))
    question = "How many boxes are blue, if of every four boxes that came in on Monday one was?"
    write_parquet(made.path / SAMPLES, pa.Table.from_pylist([{"step": 1, "prompt": question, "text": "One."}]))
    assert f"Prompt:\n\n```text\n{question}\n```\n\nCompletion:\n\n```text\nOne.\n```" in str(pretrain._live(made.path))


def test_a_page_lists_the_inputs(tmp_path: Path) -> None:
    artifact(tmp_path, "pretrain", 1, 1)
    artifact(tmp_path, "finetune", 1, 1, [("base", "pretrain")])
    merged = artifact(tmp_path, "merge", 1, 1, [("base", "pretrain"), ("finetune", "finetune"), ("gone", "gone")])
    report = panels.page(merged, merge.merge._panel).report
    check(report, pictured=0)
    assert "| made from | pretrain@1, finetune@1 |" in report
    assert "homegrown chat merge@1\n" in report


def test_quantize_shows_what_each_variant_costs_and_loses(tmp_path: Path) -> None:
    made = artifact(tmp_path, "quantize", 1, 1)
    names = ("disk_megabytes", "memory_megabytes", "tokens_per_second", "bits_per_byte", "loss")
    more = ("ratio", "relative_logit_error", "max_logit_error")
    rows = [
        {"variant": variant, "device": "cpu", **dict(zip(names + more, figures, strict=True))}
        for variant, figures in {
            "original": (10.0, 10.1, 250.0, 1.5, 0.0, 1.0, 0.0, 0.0),
            "int8": (2.5, 3.1, 1234.0, 1.515, 0.01, 4.0, 0.01, 0.5),
            "q8_0": (2.4, 3.1, 1234.0, 1.5, -1e-6, 4.0, 0.01, 0.5),
        }.items()
    ]
    write(made.path / "variants", rows)
    report = quantize._report(made)
    check(report, pictured=1)
    assert "| original | 10 | 10.1 | 250 | 1.5000 |  |" in report
    assert "| int8 | 2.5 | 3.1 | 1,234 | 1.5150 | +1.00% |" in report
    assert "| q8_0 | 2.4 | 3.1 | 1,234 | 1.5000 | 0.00% |" in report
    assert "| int8 | 4.00× | 1.00% | 0.5 | cpu |" in report
    method = report.partition("### Method\n\n")[2]
    assert all(line.startswith("- ") for line in method.splitlines())  # the UI breaks a line where the text does


def test_evaluate_shows_every_figure_of_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact(tmp_path, "evaluate", 1, 3)
    figures = {field.name: float(place) for place, field in enumerate(fields(Result), start=1) if field.name != "kind"}
    names: dict[str, Any] = {"device": "cpu", "memorised_longest": 7}
    text = Continuation(
        **{
            field.name: 1.0 if field.type is float else 3 if field.type is int else "x"
            for field in fields(Continuation)
        }
    )
    text = replace(text, document=0)
    facts = replace(Facts(**dict.fromkeys((field.name for field in fields(Facts)), 1)), test_documents=30)
    Report(
        results=[Result(**figures | names | {"variant": name}) for name in ("v0", "v1")]
        + [Result(variant="xz", kind="baseline", bits_per_byte=2.5)],
        sources=[],
        continuations=[text],
        memorised=[Memory(variant="v0", tokens=3, text="a run", document="d", source="s")],
        facts=facts,
        sample="Once upon\na time",
    ).write(made.path)
    monkeypatch.setattr(evaluate, "store", lambda: Store(tmp_path))
    report = evaluate._report(made)
    check(report, pictured=2)
    assert "| v1 | 3.0000 (4.0000 to 5.0000) | +6.0000 * (+7.0000 to +8.0000) | 9.00 |" in report
    assert "```text\nOnce upon\na time\n```" in report
    excerpt = evaluate._excerpt(made)
    check(excerpt, pictured=1)
    assert "| xz | 2.5000 |  |  |  |  |  |" in excerpt
    assert [row["model"] for row in evaluate._rows(made)] == ["v0", "v1", "xz"]
    assert panels.page(made, panels.Panel(lambda one: "", rows=evaluate._rows)).rows == evaluate._rows(made)


def test_a_page_is_drawn_once_and_again_when_the_code_that_draws_changed(tmp_path: Path) -> None:
    made = artifact(tmp_path, "shard", 10, 9, loss=0.123456, q8_0_mb=3)
    drawn: list[Artifact] = []

    def report(one: Artifact) -> str:
        drawn.append(one)
        return "The report."

    panel = panels.Panel(report, excerpt=lambda one: "An excerpt.")
    first = panels.page(made, panel)
    assert first.report.startswith("The report.")
    assert "| in | 10 |" in first.report
    assert "| out | 9 documents |" in first.report
    assert "| loss | 0.1235 |" in first.report
    assert "| q8_0 MB | 3 |" in first.report
    assert "| duration | 1 min 15 s |" in first.report
    assert first.excerpt == "An excerpt."
    assert panels.page(made, panel) == first
    assert len(drawn) == 1
    os.utime(made.path / panels.PAGE, (0, 0))
    assert panels.page(made, panel) == first
    assert len(drawn) == 2
    (made.path / panels.PAGE).write_text(json.dumps({"report": "half"}))
    os.utime(made.path / panels.PAGE, (time.time() + 9,) * 2)
    assert panels.page(made, panel) == first


@pytest.mark.parametrize(
    "note", ["14 dropped, 23 fail it", "a note that is nearly as long as half of the picture is wide"]
)
def test_notes_of_bars_are_inside_the_picture(note: str) -> None:
    names = ["a rule with quite a long name for a rule", "b"]
    with Image.open(io.BytesIO(charts.bars(names, [14.0, 3.0], [note] * 2, "Bars"))) as image:
        grey = image.convert("L")
    edge = grey.crop((grey.width - 3, 30, grey.width, grey.height))
    assert edge.getextrema() == (255, 255)
    assert grey.crop((grey.width // 2, 30, grey.width - 3, grey.height)).getextrema()[0] < 100


def test_links_lead_to_the_same_ui_on_prefect_cloud_too() -> None:
    local, cloud = "http://127.0.0.1:4200", "https://app.prefect.cloud/account/a/workspace/w"
    for ui, path in ((local, ""), (cloud, "/account/a/workspace/w")):
        with temporary_settings({PREFECT_UI_URL: ui}):
            assert link("it", "/runs/flow-run/1") == f"[it]({path}/runs/flow-run/1)"
            assert address("/runs/flow-run/1") == f"{ui}/runs/flow-run/1"


def test_text_cannot_break_out_of_a_table_or_a_quotation() -> None:
    assert table(["a", "b"], [["x|y", "1\n2"]]).splitlines()[2] == "| x\\|y | 1 2 |"
    assert quoted("````\n").startswith("`````text\n````\n")
    long = "word " * 100
    assert max(map(len, quoted(long).splitlines())) < 100
    assert quoted(long).replace("\n", "") == f"```text{long}```"


def test_the_live_page_of_training_says_when_its_curve_was_drawn(tmp_path: Path) -> None:
    assert pretrain.TRAINING_PANEL.live is not None
    assert pretrain.TRAINING_PANEL.live(tmp_path) is None
    Image.new("RGB", (4, 4)).save(tmp_path / CURVE, format="PNG")
    for second in (7, 27):
        drawn = datetime(2026, 11, 30, 20, 52, second, tzinfo=UTC).timestamp()
        os.utime(tmp_path / CURVE, (drawn, drawn))
        page = pretrain.TRAINING_PANEL.live(tmp_path)
        assert page is not None
        assert page.startswith(f"Curve drawn 2026-11-30 20:52:{second:02} UTC\n\n### Training\n\n![")
