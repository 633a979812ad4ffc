"""The reports: all text is escaped, nothing is loaded, and the numbers are the measured ones."""

import base64
import re
from pathlib import Path

import pytest

from homegrown.evaluation.evaluation_report import html, markdown, models_table, sections
from homegrown.evaluation.results import Continuation, Facts, Memory, OfSource, Report, Result
from homegrown.reporting.blocks import as_markdown, rows_of
from tests.reporting.page import Page

NASTY = "<script>alert('x')</script> & \"quoted\" </pre></body> ``` | *bold*"


@pytest.fixture
def report() -> Report:
    weights = Result(
        variant="original<i>",
        bits_per_byte=1.23456,
        bits_per_byte_low=1.2,
        bits_per_byte_high=1.3,
        perplexity=12.345,
        bleu=3.21,
        bleu_low=1.5,
        bleu_high=4.5,
        rouge_1=20.0,
        rouge_2=10.0,
        rouge_l=15.0,
        rouge_lsum=16.0,
        repeated_4grams=0.25,
        distinct_2=0.5,
        memorised_median=4.5,
        memorised_longest=17,
        tokens_per_second=99.6,
        disk_megabytes=16.8,
        memory_megabytes=17.2,
        device="cpu",
    )
    continuation = Continuation(
        variant="original<i>",
        document=0,
        id="d1",
        source="books",
        prompt=f"prompt {NASTY}",
        reference=f"reference {NASTY}",
        continuation=f"continuation {NASTY}",
        bleu=1.0,
        rouge_1=2.0,
        rouge_2=3.0,
        rouge_l=4.0,
        rouge_lsum=4.0,
        memorised=17,
        reference_memorised=9,
    )
    of_source = {"documents": 3, "tokens": 9, "bytes": 30, "bits_per_byte_low": 1.0, "bits_per_byte_high": 2.0}
    return Report(
        results=[
            weights,
            Result(
                variant="5-gram",
                kind="baseline",
                bits_per_byte=1.5,
                difference=0.26544,
                difference_low=0.2,
                difference_high=0.3,
            ),
            Result(variant="xz", kind="baseline", bits_per_byte=2.5),
            Result(variant="held-out text", kind="text", memorised_longest=9),
        ],
        sources=[
            OfSource(variant="original<i>", source=name, bits_per_byte=1.75, perplexity=9.0, **of_source)
            for name in ("books", f"notes {NASTY}")
        ],
        continuations=[continuation],
        memorised=[
            Memory(variant="original<i>", tokens=17, text=f"memory {NASTY}", document="d7", source="books"),
            Memory(variant="held-out text", tokens=9, text="", document="d8", source="books"),
        ],
        sample=f"sample {NASTY}",
        facts=Facts(
            test_tokens=40_000,
            test_documents=70,
            context=256,
            stride=128,
            whole_split=True,
            documents=1,
            documents_asked=32,
            prompt_tokens=64,
            continuation_tokens=48,
            train_tokens=5_000_000,
            counted_tokens=5_000_000,
        ),
    )


def test_text_is_shown_as_it_is_and_never_becomes_markup(report: Report) -> None:
    page = Page.of(html(report))
    for part in ("prompt", "reference", "continuation", "sample", "memory", "notes"):
        assert f"{part} {NASTY}" in page.text
    assert "original<i>" in page.text
    assert not {"script", "i", "b", "link", "iframe"} & set(page.tags)
    assert page.tags.count("body") == page.tags.count("html") == 1


def test_nothing_comes_from_elsewhere(report: Report) -> None:
    page = Page.of(html(report))
    assert len(page.sources) == 2
    for source in page.sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert not re.search(r"https?://|url\(|@import", html(report))
    assert html(report) == html(report)


def test_both_pages_show_the_figures(report: Report) -> None:
    page = Page.of(html(report))
    for text in (page.text, markdown(report)):
        for figure in ("1.2346", "12.35", "3.21", "25.0%", "50.0%", "100", "16.8", "17.2", "40,000 tokens", "32 were"):
            assert figure in text
        for figure in ("1.2000 to 1.3000", "+0.2654 *", "stride 128", "at least 129 tokens", "17", "d7"):
            assert figure in text


def test_rows_of_markdown_are_no_longer_than_asked_for(report: Report) -> None:
    full, narrow = (as_markdown(sections(report, ["What is new."]), width=width) for width in (10_000, 30))
    assert "3.21 (1.50 to 4.50)" in full and "(1.50 to 4.50)" not in narrow
    assert "| 3.21 |" in narrow and "- What is new." in narrow
    for line in narrow.splitlines():
        if line.startswith("| xz"):
            assert line.startswith("| xz | 2.5000 |")  # it is only in the groups in which it has figures
    assert narrow.count("| xz") == 1


def test_rows_of_the_table_have_the_same_columns(report: Report) -> None:
    rows = rows_of(models_table(report))
    assert [row["model"] for row in rows] == ["original<i>", "5-gram", "xz", "held-out text"]
    assert rows[0]["bits per byte"] == "1.2346" and rows[0]["bits per byte, 95%"] == "1.2000 to 1.3000"
    assert rows[1]["vs. original"] == "+0.2654 *"
    assert len({tuple(row) for row in rows}) == 1


def test_what_is_written_is_read_again(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    assert Report.read(tmp_path) == report


def test_the_sample_stays_inside_its_fence(report: Report) -> None:
    lines = markdown(report).splitlines()
    place = lines.index(f"sample {NASTY}")
    assert lines[place - 1 : place + 2] == ["````text", f"sample {NASTY}", "````"]
