"""The pages: everything in them is escaped, nothing comes from elsewhere, and the numbers are those measured."""

import base64
import re
from html.parser import HTMLParser

import pytest

from homegrown.evaluation.report import Continuation, Report, Result, html, markdown

NASTY = "<script>alert('x')</script> & \"quoted\" </pre></body> ``` | *bold*"


@pytest.fixture
def report() -> Report:
    result = Result(
        variant="original<i>",
        perplexity=12.345,
        bits_per_byte=1.23456,
        bleu=3.21,
        rouge_1=20.0,
        rouge_2=10.0,
        rouge_l=15.0,
        repeated_4grams=0.25,
        distinct_2=0.5,
        tokens_per_second=99.6,
        disk_megabytes=16.8,
        memory_megabytes=17.2,
        device="cpu",
    )
    continuation = Continuation(
        variant="original<i>",
        document=0,
        prompt=f"prompt {NASTY}",
        reference=f"reference {NASTY}",
        continuation=f"continuation {NASTY}",
        bleu=1.0,
        rouge_1=2.0,
        rouge_2=3.0,
        rouge_l=4.0,
    )
    return Report(
        results=[result],
        continuations=[continuation],
        sample=f"sample {NASTY}",
        test_tokens=40_000,
        documents=1,
        documents_asked=32,
        prompt_tokens=64,
        continuation_tokens=48,
    )


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_is_shown_as_it_is_and_never_becomes_markup(report: Report) -> None:
    page = Page()
    page.feed(html(report))
    for part in ("prompt", "reference", "continuation", "sample"):
        assert f"{part} {NASTY}" in page.text
    assert "original<i>" in page.text
    assert not {"script", "i", "link", "iframe"} & set(page.tags)
    assert page.tags.count("body") == page.tags.count("html") == 1


def test_nothing_comes_from_elsewhere(report: Report) -> None:
    page = Page()
    page.feed(html(report))
    sources = [value or "" for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 1
    kind, _, content = sources[0].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")
    assert not re.search(r"https?://|url\(|@import", html(report))
    assert html(report) == html(report)


def test_both_pages_show_the_figures(report: Report) -> None:
    page = Page()
    page.feed(html(report))
    for text in (page.text, markdown(report)):
        for figure in ("1.2346", "12.35", "3.21", "25.0%", "50.0%", "100", "16.8", "17.2", "40,000 tokens", "32 were"):
            assert figure in text


def test_the_sample_stays_inside_its_fence(report: Report) -> None:
    lines = markdown(report).splitlines()
    assert lines[-3:] == ["````text", f"sample {NASTY}", "````"]
