"""Files of instruction data: found, unpacked and read line by line; what is no JSON is named with its line."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from homegrown.errors import UserError
from homegrown.tokens import instruction_files
from homegrown.tokens.instruction_files import find, read

RECORDS = [{"question": f"naïve {number}?", "answer": "So.\n🙂"} for number in range(50)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "talk.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return write


def places_and_values(path: Path) -> list[tuple[int, Any]]:
    return [(record.position, record.value) for record in read(path)]


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".zst", zstandard.compress),
        (".zst", lambda data: zstandard.compress(data[:700]) + zstandard.compress(data[700:])),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
    ],
)
def test_lines_are_read_packed_or_not(write: Callable[..., Path], ending: str, pack: Callable[[bytes], bytes]) -> None:
    assert places_and_values(write(pack(LINES), f"talk.jsonl{ending}")) == list(enumerate(RECORDS, start=1))


def test_blank_lines_a_mark_and_line_ends_do_not_count(write: Callable[..., Path]) -> None:
    data = b'\xef\xbb\xbf\n {"a": 1}\r\n\n  \n{"a": 2}'
    assert places_and_values(write(data)) == [(2, {"a": 1}), (5, {"a": 2})]
    assert list(read(write(b" \n\n"))) == list(read(write(b""))) == []


@pytest.mark.parametrize("name", ["talk.json", "talk.jsonl", "talk.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_item_by_item(write: Callable[..., Path], name: str, indent: int | None) -> None:
    data = b"\n " + json.dumps(RECORDS, indent=indent).encode()
    path = write(gzip.compress(data) if name.endswith(".gz") else data, name)
    assert places_and_values(path) == list(enumerate(RECORDS, start=1))
    assert {record.unit for record in read(path)} == {"item"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"a": 1}\n{"a": 1', "line 2: it is not JSON"),
        (b'{"a": 1}\n\n{"a": "\xff"}\n', "line 3: it is not UTF-8 from byte 8 on"),
        (b'{"a": 1}\n\x00\x01\x02\n', "line 2: it holds binary data"),
        (b"PAR1\x00\x15", "line 1: it holds binary data"),
        (b'{"a": NaN}\n', "line 1: it is not JSON"),
        (b'{"a": "\\ud800"}\n', "line 1: it is not JSON"),
        (b'[{"a": 1}, {"a": ]', "item 2: it is not JSON"),
        (b'[{"a": 1}, {"a": "\xff"}]', "item 2: it is not JSON in UTF-8"),
        (b'[{"a": 1}', "item 2: it is not JSON"),
        (b'{\n "a": 1\n}\n', "line 1: it is not JSON"),
    ],
)
def test_what_is_no_json_is_one_sentence(write: Callable[..., Path], data: bytes, problem: str) -> None:
    path = write(data)
    with pytest.raises(UserError) as raised:
        list(read(path))
    assert str(raised.value).startswith(f"{path}, {problem}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("talk.jsonl.gz", gzip.compress(LINES * 100)[:-500]),
        ("talk.jsonl.gz", b"no gzip at all"),
        ("talk.jsonl.zst", b"no zstandard at all"),
        ("talk.jsonl.bz2", b"no bzip2 at all"),
        ("talk.jsonl.xz", b"no xz at all"),
    ],
)
def test_what_cannot_be_unpacked_is_one_sentence(write: Callable[..., Path], name: str, data: bytes) -> None:
    with pytest.raises(UserError, match=rf"{name} cannot be read (after line \d+) \(.+\); restore the file\."):
        list(read(write(data, name)))


def test_too_long_a_line_or_item_is_one_sentence(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_files, "LONGEST", 2_000_000)
    long: list[Any] = [1, {"a": "x" * 4_000_000}]
    for data, problem in (
        (b'{"a": 1}\n%s\n' % json.dumps(long[1]).encode(), "line"),
        (json.dumps(long).encode(), "item"),
    ):
        with pytest.raises(UserError, match=rf"{problem} 2: it is longer than 2 MB"):
            list(read(write(data)))


def test_files_folders_and_globs_are_found(write: Callable[..., Path], tmp_path: Path) -> None:
    names = ["b.jsonl", "a.json.gz", "in/c.JSONL.zst", "in/.hidden.jsonl", ".git/d.jsonl", "note.txt", "e.parquet"]
    for name in names:
        write(b"{}", name)
    expected = [tmp_path / name for name in ("a.json.gz", "b.jsonl", "in/c.JSONL.zst")]
    assert find([str(tmp_path)]) == expected
    assert find([str(tmp_path / "b.jsonl"), str(tmp_path)]) == [expected[1], expected[0], expected[2]]
    assert find([f"{tmp_path}/*.j*"]) == expected[:2]
    assert find([str(tmp_path / "note.txt")]) == [tmp_path / "note.txt"]
    for name, problem in (("nowhere.jsonl", "no file or folder"), ("x*.jsonl", "holds no file that ends in .jsonl")):
        with pytest.raises(UserError, match=problem):
            find([str(tmp_path / name)])
