"""Files of conversations: finding, decompressing, reading line by line, and errors that name the line."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
import zstandard

from homegrown.data import instruction_files
from homegrown.data.instruction_files import find, read
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError

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
    return [(record.position, record.value) for record in read(str(path))]


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
def test_lines_are_read_compressed_or_not(
    write: Callable[..., Path], ending: str, pack: Callable[[bytes], bytes]
) -> None:
    assert places_and_values(write(pack(LINES), f"talk.jsonl{ending}")) == list(enumerate(RECORDS, start=1))


def test_blank_lines_a_mark_and_line_ends_do_not_count(write: Callable[..., Path]) -> None:
    data = b'\xef\xbb\xbf\n {"a": 1}\r\n\n  \n{"a": 2}'
    assert places_and_values(write(data)) == [(2, {"a": 1}), (5, {"a": 2})]
    assert list(read(str(write(b" \n\n")))) == list(read(str(write(b"")))) == []


@pytest.mark.parametrize("name", ["talk.json", "talk.jsonl", "talk.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_item_by_item(write: Callable[..., Path], name: str, indent: int | None) -> None:
    data = b"\n " + json.dumps(RECORDS, indent=indent).encode()
    path = write(gzip.compress(data) if name.endswith(".gz") else data, name)
    assert places_and_values(path) == list(enumerate(RECORDS, start=1))
    assert {record.unit for record in read(str(path))} == {"item"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"a": 1}\n{"a": 1', "line 2 is invalid JSON"),
        (b'{"a": 1}\n\n{"a": "\xff"}\n', "line 3 is invalid UTF-8 at byte 8"),
        (b'{"a": 1}\n\x00\x01\x02\n', "line 2 is binary data"),
        (b"PAR1\x00\x15", "line 1 is binary data"),
        (b'{"a": NaN}\n', "line 1 is invalid JSON"),
        (b'{"a": "\\ud800"}\n', "line 1 is invalid JSON"),
        (b'{\n "a": 1\n}\n', "line 1 is invalid JSON"),
    ],
)
def test_invalid_json_is_a_problem_of_its_line(write: Callable[..., Path], data: bytes, problem: str) -> None:
    path = write(data)
    found = [f"{record.place} {record.problem}" for record in read(str(path)) if record.problem]
    assert found[0].startswith(f"{path}, {problem}")
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    "data", [b'[{"a": 1}, {"a": ]', b'[{"a": 1}, {"a": "\xff"}]', b'[{"a": 1}'], ids=["value", "bytes", "end"]
)
def test_an_array_that_is_not_json_is_an_error(write: Callable[..., Path], data: bytes) -> None:
    path = write(data)
    with pytest.raises(UserError, match="item 2: invalid JSON"):
        list(read(str(path)))


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
def test_a_damaged_archive_is_an_error(write: Callable[..., Path], name: str, data: bytes) -> None:
    with pytest.raises(UserError, match=rf"{name} cannot be read (after line \d+) \(.+\); restore the file\."):
        list(read(str(write(data, name))))


def test_too_long_a_line_or_item_is_an_error(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_files, "LONGEST", 2_000_000)
    long: list[Any] = [1, {"a": "x" * 4_000_000}]
    _, record, last = read(str(write(b'{"a": 1}\n%s\n{"a": 2}\n' % json.dumps(long[1]).encode())))
    assert (record.position, record.problem, last.value) == (2, "is longer than 2 MB", {"a": 2})
    with pytest.raises(UserError, match="item 2: longer than 2 MB"):
        list(read(str(write(json.dumps(long).encode()))))


def test_files_folders_and_globs_are_found(write: Callable[..., Path], tmp_path: Path) -> None:
    names = ["b.jsonl", "a.json.gz", "in/c.JSONL.zst", "in/.hidden.jsonl", ".git/d.jsonl", "note.txt", "e.parquet"]
    for name in names:
        write(b"{}", name)
    expected = [str(tmp_path / name) for name in ("a.json.gz", "b.jsonl", "in/c.JSONL.zst")]
    assert find([str(tmp_path)]) == expected
    assert find([str(tmp_path / "b.jsonl"), str(tmp_path)]) == [expected[1], expected[0], expected[2]]
    assert find([f"{tmp_path}/*.j*"]) == expected[:2]
    assert find([str(tmp_path / "note.txt")]) == [str(tmp_path / "note.txt")]
    assert find([f"file://{tmp_path}/b.jsonl"]) == [expected[1]]
    for name, problem in (("nowhere.jsonl", "is not found"), ("x*.jsonl", "has no file that ends in .jsonl")):
        with pytest.raises(UserError, match=problem):
            find([str(tmp_path / name)])


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, with a folder of this test's own."""
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/talks", recursive=True)


def test_remote_files_read_like_local_ones(write: Callable[..., Path], tmp_path: Path, memory: Any) -> None:
    everything = {"b.jsonl": LINES, "a.json.gz": gzip.compress(json.dumps(RECORDS).encode()), "in/c.JSONL": LINES}
    for name, data in {**everything, "in/.hidden.jsonl": b"no", ".git/d.jsonl": b"no", "note.txt": LINES}.items():
        write(data, name)
        memory.pipe(f"/talks/{name}", data)
    for pattern in ("", "/b.jsonl", "/*.j*", "/note.txt"):
        here, there = find([f"{tmp_path}{pattern}"]), find([f"memory://talks{pattern}"])
        assert [name.removeprefix("memory://").removeprefix("/talks") for name in there] == [
            name.removeprefix(str(tmp_path)) for name in here
        ]
        for ours, theirs in zip(here, there, strict=True):
            assert [record[1:] for record in read(ours)] == [record[1:] for record in read(theirs)]
            assert next(read(theirs)).place.startswith(theirs)


def test_the_identity_of_a_remote_file_depends_on_its_content(tmp_path: Path, memory: Any) -> None:
    def identity(data: bytes) -> str:
        memory.pipe("/talks/a.jsonl", data)
        (file,) = find(["memory://talks"])
        with Digests(tmp_path / "digests.sqlite") as digests:
            assert instruction_files.identity(file, digests) == instruction_files.identity(file, digests)
            return instruction_files.identity(file, digests)

    assert identity(b"{}\n") != identity(b"[{}]\n")


def test_a_file_system_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    memory.pipe("/talks/a.jsonl", LINES)
    for address in ("memory://nowhere", "http://127.0.0.1:1/a.jsonl", "hdfs://127.0.0.1:1/a.jsonl"):
        with pytest.raises(UserError, match=f"instructions.files: .*{address}") as raised:
            find([address])
        assert "\n" not in str(raised.value)

    def fail(*_: object) -> bytes:
        raise ConnectionError("the cable is out")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fail)
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read: the cable is out; run again when it answers"):
        list(read("memory://talks/a.jsonl"))


def test_a_web_address_is_read_whatever_its_query(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl.gz").write_bytes(gzip.compress(LINES))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (file,) = find([f"http://127.0.0.1:{server.server_port}/talk.jsonl.gz?version=3"])
        assert [record.value for record in read(file)] == RECORDS
        server.shutdown()
