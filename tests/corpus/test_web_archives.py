"""Web archives: a damaged, cut or mislabelled record is a fault of its own, and no other record goes with it."""

import gzip
import random
from pathlib import Path

import pytest
import zstandard

from tests.corpus import samples
from tests.corpus.test_readers import read

WORDS = random.Random(0)
TEXTS = [
    f"Page number {n} says. {samples.SENTENCE} {' '.join(str(WORDS.random()) for _ in range(100))}." for n in range(6)
]


def record(body: bytes, head: str = "Content-Type: text/html; charset=utf-8", length: int | None = None) -> bytes:
    block = b"HTTP/1.1 200 OK\r\n" + head.encode() + b"\r\n\r\n" + body
    size = len(block) if length is None else length
    fields = f"WARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {size}"
    return b"WARC/1.0\r\n" + fields.encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def packings(records: list[bytes]) -> dict[str, bytes]:
    """Return an archive as it is, in one member of gzip, and in a member for each record."""
    whole = b"".join(records)
    return {
        "a.warc": whole,
        "b.warc.gz": gzip.compress(whole),
        "c.warc.gz": b"".join(map(gzip.compress, records)),
        "d.warc.zst": zstandard.compress(whole),
    }


def numbers(texts: list[str]) -> list[int]:
    return [int(text.partition("Page number ")[2].partition(" ")[0]) for text in texts]


PAGES = [samples.page(text) for text in TEXTS]
BAD = {
    "is not gzip": (record(PAGES[2], "Content-Type: text/html\r\nContent-Encoding: gzip"), "gzip encoding is damaged"),
    "ends early": (
        record(gzip.compress(PAGES[2])[:-20], "Content-Type: text/html\r\nContent-Encoding: gzip"),
        "gzip encoding is damaged: it ends early",
    ),
    "is not chunked": (
        record(PAGES[2], "Content-Type: text/html\r\nTransfer-Encoding: chunked"),
        "chunked encoding is damaged: a chunk has no size",
    ),
    "unknown": (record(PAGES[2], "Content-Type: text/html\r\nContent-Encoding: zip"), "zip encoding is damaged"),
    "too long a length": (record(PAGES[2], length=len(PAGES[2]) + 400), "the record's length is wrong"),
    "too short a length": (record(PAGES[2], length=300), "the record's length is wrong"),
    "huge length": (record(PAGES[2], length=10**14), "the record's length is wrong"),
    "no length": (record(PAGES[2]).replace(b"Content-Length", b"Content-Lost"), "the record's head is damaged"),
    "no head": (record(PAGES[2]).replace(b"WARC/1.0", b"WRAC/1.0"), "the record's head is damaged"),
    "no HTTP head": (record(PAGES[2]).replace(b"HTTP/1.1", b"HTXX/1.1"), "the record has no HTTP head"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_bad_record_is_one_fault(tmp_path: Path, kind: str, place: int) -> None:
    bad, reason = BAD[kind]
    records = [record(page) for page in PAGES]
    records[place] = bad
    for name, data in packings(records).items():
        texts, faults = read(tmp_path / name, data)
        assert numbers(texts) == [n for n in range(6) if n != place], name
        assert len(faults) == 1 and faults[0].position == place + 1, (name, faults)
        cut = place == 5 and "length" in kind and "short" not in kind and "no" not in kind
        assert ("the record ends after" if cut else reason) in faults[0].reason


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "chunked", "gzip chunked"])
def test_encodings_of_a_page_are_read(tmp_path: Path, encoding: str) -> None:
    body, head = PAGES[0], "Content-Type: text/html"
    if "gzip" in encoding:
        body, head = gzip.compress(body), head + "\r\nContent-Encoding: gzip"
    if encoding == "deflate":
        import zlib

        body, head = zlib.compress(body)[2:-4], head + "\r\nContent-Encoding: deflate"
    if "chunked" in encoding:
        parts = [body[n : n + 100] for n in range(0, len(body), 100)]
        body = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        head += "\r\nTransfer-Encoding: chunked"
    for name, data in packings([record(body, head), record(PAGES[1])]).items():
        texts, faults = read(tmp_path / name, data)
        assert numbers(texts) == [0, 1] and not faults, name


@pytest.mark.parametrize("with_bad", [False, True])
def test_a_cut_archive_tells_of_the_cut_record(tmp_path: Path, with_bad: bool) -> None:
    records = [*([BAD["is not gzip"][0]] if with_bad else []), *(record(page) for page in PAGES)]
    packed = packings(records)
    del packed["d.warc.zst"]  # one block
    for name, data in packed.items():
        for left in (len(data) - 60, len(data) // 2 + 7, len(data) * 3 // 4 + 1):
            texts, faults = read(tmp_path / name, data[:left])
            assert numbers(texts) == list(range(len(texts))) and len(texts) < 6
            assert len(faults) == 1 + with_bad, (name, left, faults)
            assert ("ends" in faults[-1].reason or "head" in faults[-1].reason) and faults[-1].position == len(
                texts
            ) + 1 + with_bad


def test_reading_goes_on_behind_a_damaged_member(tmp_path: Path) -> None:
    generator = random.Random(1)
    members = [gzip.compress(record(page)) for page in PAGES]
    for _ in range(20):
        place = generator.randrange(6)
        damaged = bytearray(members[place])
        at = generator.randrange(20, len(damaged) - 8)
        damaged[at : at + 4] = bytes(byte ^ 0xA5 for byte in damaged[at : at + 4])
        texts, faults = read(
            tmp_path / "a.warc.gz", b"".join([*members[:place], bytes(damaged), *members[place + 1 :]])
        )
        assert numbers(texts) == [n for n in range(6) if n != place]
        assert len(faults) == 1


def test_an_arc_keeps_its_records_behind_a_wrong_one(tmp_path: Path) -> None:
    data = samples.arc(TEXTS)
    texts, faults = read(tmp_path / "a.arc", data.replace(b"http://x/2 ", b"ht\0p://x/2 "))
    assert numbers(texts) == [0, 1, 3, 4, 5] and len(faults) == 1
    assert read(tmp_path / "b.arc", b"no archive\n" * 50)[1][0].reason == "the record's head is damaged"
