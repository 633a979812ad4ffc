"""Redaction on labelled strings, and on strings that are not in that table."""

import pyarrow as pa
import pytest

from benchmarks.redaction import labeled, scores
from homegrown.corpus.redaction import Kind, find, redact

KINDS: list[Kind] = ["email", "ip", "phone"]


def test_every_labelled_string_is_read_as_a_person_reads_it() -> None:
    assert len(labeled()) >= 200
    for kind, (both, found, marked) in scores(find).items():
        assert both == found == marked > 30, kind


def test_the_cheap_test_of_bytes_passes_what_the_patterns_find() -> None:
    texts = [text for text, _ in labeled()]
    _, counts = redact(pa.array(texts), KINDS)
    assert counts.tolist() == [sum(len(set(find(text, kind))) for kind in KINDS) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "Firefox 102.4.1.1 and Safari 15.2.1.1",
        "rev. 7.1.0.3, sections 4.1.2.7",
        "The value is 12.5.3.9",
        "https://tiktok.com/@first.last?lang=de",
        "https://cdn.example.com/npm/vue@3.3.4/dist/vue.global.prod.js",
        "avatar@2x.jpeg",
        "t = 2021:11:05",
        "area +12.345678901 m",
        "a telling 20 years",
        "ISBN 0-306-40615-2",
        "2001:db8:85a3::8a2e:370:7334",
        "3.14159265358979",
    ],
)
def test_what_identifies_nobody_stays(text: str) -> None:
    kept, counts = redact(pa.array([text]), KINDS)
    assert (kept.to_pylist(), counts.tolist()) == ([text], [0])


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("联系li.lei@example.cn吧", "联系email@example.com吧"),
        ("from: søren@post.example.dk.", "from: email@example.com."),
        ("(217.160.0.201)", "(22.214.171.124)"),
        ("peer [2003:e6:1f00::17]", "peer [2001:db8::1]"),
        ("Tel.: 089 / 2180-0", "Tel.: 089 / 2180-0"),  # an extension of one digit: not in any of the notations
        ("Tel.: 089 21800", "Tel.: +1 202-555-0100"),
        ("+48 22 555 01 23 or (303) 555-0142", "+1 202-555-0100 or +1 202-555-0100"),
    ],
)
def test_what_identifies_a_person_goes(text: str, redacted: str) -> None:
    assert redact(pa.array([text]), KINDS)[0].to_pylist() == [redacted]
