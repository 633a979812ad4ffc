"""JSON as people write it: whatever is readable is read, and each record that is not is one fault."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from homegrown.config.corpus import FilesSource
from homegrown.corpus.readers import formats
from homegrown.corpus.records import Document, Fault, Tally
from homegrown.corpus.sources import find_files
from homegrown.corpus.text import clean

ROWS = [{"id": n, "text": f"Sentence {n} of the collection."} for n in range(4)]
TEXTS = [row["text"] for row in ROWS]


def read(path: Path, data: bytes | str, longest: int = 10**6, **source: str) -> tuple[list[str], list[Fault]]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    settings = FilesSource(name="raw", path=str(path), **source)
    records = [r for piece in find_files(settings).files for r in formats.read(piece, settings, longest, Tally())]
    return [clean(r.text) for r in records if isinstance(r, Document)], [r for r in records if isinstance(r, Fault)]


def dumped(rows: list[Any], **options: Any) -> list[str]:
    return [json.dumps(row, **options) for row in rows]


WAYS = {
    "lines": "\n".join(dumped(ROWS)),
    "one after the other": "".join(dumped(ROWS)),
    "one after the other, spaced": "  ".join(dumped(ROWS)),
    "with commas and no brackets": ",\n".join(dumped(ROWS)) + ",",
    "pretty": "\n\n".join(dumped(ROWS, indent=2)),
    "pretty, without lines between": "".join(dumped(ROWS, indent=4)),
    "a text sequence (RFC 7464)": "".join(f"\x1e{row}\n" for row in dumped(ROWS)),
    "joined files with marks": "\ufeff" + "\n\ufeff".join(dumped(ROWS)),
    "an array": json.dumps(ROWS),
    "a pretty array": json.dumps(ROWS, indent=1),
    "an array without indentation": json.dumps(ROWS, indent=0),
    "an array, an object a line": "[\n" + ",\n".join(dumped(ROWS)) + "\n]\n",
    "two arrays": json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:]),
    "an array and objects": json.dumps(ROWS[:2]) + "\n" + "\n".join(dumped(ROWS[2:])),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_objects_are_read_however_they_are_put_together(tmp_path: Path, way: str, ending: str) -> None:
    assert read(tmp_path / f"a{ending}", WAYS[way]) == (TEXTS, [])


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_what_is_no_json_and_is_written_all_the_same_is_read(tmp_path: Path, ending: str) -> None:
    lines = [
        '{"text": "one", "score": NaN}',
        '{"score": -Infinity, "text": "two"}',
        '{"text": "cut \\ud83d here"}',
        '{"text": "whole \\ud83d\\ude00 here"}',
        '{"text": "three", "meta": "\\udc00"}',
        '{"text": "a line\nbreak"}',
        '{"text": "1e999 is large", "n": 1e999}',
    ]
    expected = ["one", "two", "cut  here", "whole 😀 here", "three", "a line\nbreak", "1e999 is large"]
    assert read(tmp_path / f"a{ending}", "\n".join(lines)) == (expected, [])
    if ending == ".json":
        assert read(tmp_path / "b.json", "[" + ", ".join(lines) + "]") == (expected, [])


BROKEN = ['{"id": 9, "text": "broken}', '{"id": 9 "text": "x"}', "{'text': 'x'}", '{"text": "x"', '{"text": nul}']


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("separator", ["\n", ",\n", ", "])
def test_a_malformed_record_is_one_fault_and_the_others_are_read(tmp_path: Path, broken: str, separator: str) -> None:
    rows = dumped(ROWS)
    mixed = [*rows[:2], broken, *rows[2:]]
    if separator == "\n":
        texts, faults = read(tmp_path / "a.jsonl", separator.join(mixed))
        assert texts == TEXTS and [fault.position for fault in faults] == [3]
        texts, faults = read(tmp_path / "a.json", separator.join(mixed))
    else:
        texts, faults = read(tmp_path / "a.json", "[" + separator.join(mixed) + "]")
    assert texts == TEXTS and len(faults) == 1 and "malformed JSON" in faults[0].reason


def test_each_of_several_malformed_lines_is_a_fault(tmp_path: Path) -> None:
    lines = [*dumped(ROWS[:1]), *BROKEN, "garbage", *dumped(ROWS[1:]), BROKEN[0]]
    texts, faults = read(tmp_path / "a.jsonl", "\n".join(lines))
    assert texts == TEXTS
    assert {fault.position for fault in faults} >= {2, 3, 4, 5, 6, 11} and len(faults) <= 7


def test_a_malformed_pretty_record_is_one_fault(tmp_path: Path) -> None:
    pretty = dumped(ROWS, indent=2)
    pretty[1] = pretty[1].replace('"id": 1,', '"id": 1')
    for ending in (".json", ".jsonl"):
        texts, faults = read(tmp_path / f"a{ending}", "\n".join(pretty))
        assert texts == [TEXTS[0], *TEXTS[2:]] and len(faults) == 1


def test_objects_in_an_object_and_columns_by_path(tmp_path: Path) -> None:
    inner = [{"row": {"text": text, "n": 1}} for text in TEXTS]
    for value, column in (
        ({"version": 1, "data": ROWS}, "text"),
        ({"data": ROWS}, "data.text"),
        ({"text": TEXTS, "id": [1, 2]}, "text"),
        ({"a": {"text": TEXTS}}, "a.text"),
        ({"rows": inner}, "rows.row.text"),
        (inner, "row.text"),
        ([{"row.text": text} for text in TEXTS], "row.text"),
    ):
        data = json.dumps(value, indent=1)
        assert read(tmp_path / "a.json", data, text_column=column) == (TEXTS, []), column
    lines = "\n".join(dumped(inner))
    assert read(tmp_path / "a.jsonl", lines, text_column="row.text") == (TEXTS, [])
    assert read(tmp_path / "b.json", json.dumps({"text": "own", "parts": ROWS})) == (["own"], [])
    texts, faults = read(tmp_path / "c.json", json.dumps({"data": [*ROWS, {"text": 3}, {"n": 1}]}))
    assert texts == TEXTS and len(faults) == 2


def test_an_object_that_is_longer_than_memory_is_streamed(tmp_path: Path) -> None:
    long = "x" * 700_000
    rows = [{"text": f"{n} {long}"} for n in range(8)]
    for value in ({"version": [1], "data": rows}, {"text": [row["text"] for row in rows], "n": {"text": "no"}}):
        texts, faults = read(tmp_path / "a.json", json.dumps(value))
        assert [text[:2] for text in texts] == [f"{n} " for n in range(8)] and not faults
    data = json.dumps({"data": [*rows[:2], {"text": long * 6}, *rows[2:]]})
    texts, faults = read(tmp_path / "b.json", data)
    assert len(texts) == 8 and "longer than max_document_mb" in faults[0].reason
    texts, faults = read(tmp_path / "c.json", json.dumps({"other": [{"body": long}] * 8}))
    assert not texts and "no key 'text'" in faults[-1].reason


def test_what_is_cut_off_is_one_fault_and_what_precedes_it_is_read(tmp_path: Path) -> None:
    for data in (json.dumps(ROWS), json.dumps({"data": ROWS}), json.dumps({"text": TEXTS}), "".join(dumped(ROWS))):
        texts, faults = read(tmp_path / "a.json", data[:-12])
        assert texts == TEXTS[:3] and len(faults) == 1, data


def test_some_invalid_bytes_are_replaced_and_too_many_are_a_fault(tmp_path: Path) -> None:
    text = "A sentence of some length, in which a byte is wrong: café it says, and goes on to its end."
    rest = [*TEXTS, "Größe und Maß über alles, für Köln", "naïve façade déjà vu"]
    lines = [json.dumps({"text": one}, ensure_ascii=False).encode() for one in rest]
    lines += [json.dumps({"text": text}, ensure_ascii=False).encode("latin-1"), b'{"text": "caf\xe9 \xfc"}']
    texts, faults = read(tmp_path / "a.jsonl", b"\n".join(lines))
    assert texts == [*rest, text.replace("é", "\ufffd")]
    assert [(fault.position, fault.reason) for fault in faults] == [(8, "invalid bytes at 2 of 6 characters")]


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
rows = st.lists(
    st.fixed_dictionaries({"text": st.text(min_size=1)}, optional={"meta": values, "n": values}), max_size=6
)


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from(["", "\n", "\n\n", ", ", "\x1e"]), st.sampled_from([None, 0, 2]), st.booleans())
def test_any_objects_come_back(rows: list[dict[str, Any]], separator: str, indent: int | None, ascii: bool) -> None:
    """Python's own writer in any form, with its NaN and lone surrogates; the texts are those it was given."""
    text = separator.join(dumped(rows, indent=indent, ensure_ascii=ascii))
    expected = [clean(row["text"]) for row in rows]
    with TemporaryDirectory() as folder:
        if ascii or not any(0xD800 <= ord(c) < 0xE000 for c in text):
            assert read(Path(folder, "a.json"), text)[0] == expected
            array = json.dumps(rows, indent=indent, ensure_ascii=ascii)
            assert read(Path(folder, "b.json"), array)[0] == expected
            if indent != 0:
                assert read(Path(folder, "c.jsonl"), text)[0] == expected


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200))
@example(b'"', 0)
@example(b'1 "', 200)
def test_any_bytes_end(data: bytes, place: int) -> None:
    whole = "\n".join(dumped(ROWS)).encode()
    with TemporaryDirectory() as folder:
        for name in ("a.json", "b.jsonl"):
            read(Path(folder, name), data)
            read(Path(folder, name), whole[:place] + data + whole[place:])
