"""Every format that ingest reads: plain, compressed, in archives, at addresses, damaged."""

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homegrown.config.corpus import FilesSource
from homegrown.corpus import remote
from homegrown.corpus.readers import formats
from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.sources import content, find_files
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError
from tests.corpus import samples
from tests.corpus.made_up import files
from tests.corpus.samples import PACKED, PAGES, SAMPLES, TABLES, TEXTS
from tests.corpus.test_ingest import run

LONGEST = 1_000_000


def read(path: Path, data: bytes, longest: int = LONGEST, **source: Any) -> tuple[list[str], list[Fault]]:
    """Write a file, read it; return the texts, spaces at their ends taken off, and the faults."""
    path.write_bytes(data)
    settings = FilesSource(name="raw", path=str(path), **source)
    records = list(formats.read(find_files(settings).files[0], settings, longest, Tally()))
    texts = [record.text.strip() for record in records if isinstance(record, Document)]
    return texts, [record for record in records if isinstance(record, Fault)]


@pytest.mark.parametrize("ending", TABLES)
@pytest.mark.parametrize("compression", PACKED)
def test_every_table_gives_the_same_texts_packed_or_not(tmp_path: Path, ending: str, compression: str) -> None:
    data = PACKED[compression](TABLES[ending](TEXTS))
    assert read(tmp_path / f"a{ending}{compression}", data) == (TEXTS, [])


@pytest.mark.parametrize("ending", [ending for ending in TABLES if ending not in (".csv", ".tsv")])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["C"])), min_size=1))
def test_any_text_comes_back_as_it_was_written(tmp_path: Path, ending: str, texts: list[str]) -> None:
    found, faults = read(tmp_path / f"a{ending}", TABLES[ending](texts))
    if ending in (".sgm", ".sgml", ".xml"):  # blanks around lines have no meaning there
        found, texts = ["".join(text.split()) for text in found], ["".join(text.split()) for text in texts]
    assert found == [text.strip() for text in texts] and not faults


@pytest.mark.parametrize("compression", PACKED)
def test_plain_text_is_one_document_packed_or_not(tmp_path: Path, compression: str) -> None:
    for ending in (".txt", ".md", ".rst"):
        assert read(tmp_path / f"a{ending}{compression}", PACKED[compression](SAMPLES[ending])) == ([TEXTS[1]], [])


def test_a_single_object_is_one_document(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", json.dumps({"text": TEXTS[1], "n": {"text": 1}}, indent=2).encode()) == (
        [TEXTS[1]],
        [],
    )
    assert read(tmp_path / "b.json", b'["one", {"text": "two"}, 3]')[0] == ["one", "two"]


def test_malformed_json_keeps_what_came_before(tmp_path: Path) -> None:
    texts, faults = read(tmp_path / "a.json", b'[{"text": "one"}, {"text": null}, {"n": 1}, {"text": "two"}, {"te')
    assert texts == ["one", "two"]
    reasons = ["not a string", "no key 'text'", "malformed JSON: a value is not closed"]
    assert [(f.position, reason in f.reason) for f, reason in zip(faults, reasons, strict=True)] == [
        (2, True),
        (3, True),
        (5, True),
    ]


def test_an_item_beyond_the_limit_stays_out_of_memory(tmp_path: Path) -> None:
    data = b'[{"text": "one"}, {"text": "' + b"x" * 8_000_000 + b'"}]'
    texts, faults = read(tmp_path / "a.json", data, longest=100_000)
    assert texts == ["one"] and ["longer than max_document_mb" in fault.reason for fault in faults] == [True]


def _parts(text: str, separator: str) -> list[str]:
    """Return what lies between all occurrences of a separator, overlapping ones too; found character by character."""
    parts, begin = [], 0
    for end in range(len(separator), len(text) + 1):
        if text[end - len(separator) : end] == separator and end - begin > 0:
            parts.append(text[begin : max(begin, end - len(separator))])
            begin = end
    return [part for part in [*parts, text[begin:]] if part.strip()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("ab|\n", max_size=80),
    separator=st.sampled_from(["\n", "\n\n", "|", "a|a", "<|end|>"]),
    bounds=st.lists(st.integers(8, 79), max_size=3),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_separated_text_has_the_same_parts_however_it_is_cut(
    tmp_path: Path, text: str, separator: str, bounds: list[int], mark: bytes
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(mark + text.encode())
    source = FilesSource(name="raw", path=str(path), separator=separator)
    size = len(mark + text.encode())
    cuts = [0, *sorted({bound for bound in bounds if bound < size}), size]
    found = []
    for start, stop in pairwise(cuts):
        piece = Piece(str(path), "a.txt", start, stop, size)
        for record in formats.read(piece, source, LONGEST, Tally()):
            assert isinstance(record, Document)
            found.append(record.text)
    assert found == _parts(text, separator)


def test_a_part_beyond_the_limit_is_left_out_and_the_rest_read(tmp_path: Path) -> None:
    data = b"one<|end|>" + b"x" * 5_000_000 + b"<|end|>t\xff<|end|>two"
    texts, faults = read(tmp_path / "a.txt", data, longest=1000, separator="<|end|>")
    assert texts == ["one", "tÿ", "two"]
    assert [(fault.position, fault.reason) for fault in faults] == [
        (2, "longer than 0.001 MB (max_document_mb), from byte 10 on")
    ]


def test_sgml_takes_the_text_element_or_the_document(tmp_path: Path) -> None:
    reuters = (
        '<!DOCTYPE lewis SYSTEM "lewis.dtd">\n<REUTERS TOPICS="YES"><DATE>26-FEB-1987</DATE><TEXT TYPE="NORM">&#2;'
        "<TITLE>COCOA & COFFEE</TITLE><BODY>Prices of AT&T rose &lt;XYZ.O>.\n\n\n\nEnd.</BODY></TEXT></REUTERS>\n" * 2
    ).encode()
    title, body = "COCOA & COFFEE", "Prices of AT&T rose <XYZ.O>.\n\nEnd."
    texts, faults = read(tmp_path / "a.sgm", reuters, document_element="REUTERS")
    assert [text.lstrip("\x02").strip() for text in texts] == [f"{title}\n\n{body}"] * 2 and not faults
    texts, _ = read(tmp_path / "b.sgm", reuters, document_element="reuters", text_column="body")
    assert texts == [body] * 2
    data = b"<page><title>T</title><text>one <b>two</b> <![CDATA[<three> & four]]></text></page><page>open"
    texts, faults = read(tmp_path / "c.xml", data, document_element="page")
    assert texts == ["one two <three> & four"] and "<page> is not closed, from byte 83" in faults[0].reason
    assert read(tmp_path / "d.xml", b"<a><x>one</x><y>two</y></a>")[0] == ["one\n\ntwo"]


def test_a_long_sgml_document_is_left_out_and_the_rest_read(tmp_path: Path) -> None:
    data = b"head" * 400_000 + b"<doc>one</doc><doc>" + b"x" * 5_000_000 + b"</doc>between<doc>two</doc>"
    texts, faults = read(tmp_path / "a.xml", data, longest=1000)
    assert texts == ["one", "two"]
    assert [fault.reason for fault in faults] == ["longer than 0.001 MB (max_document_mb), from byte 1600014 on"]


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
def test_the_main_text_of_a_page_is_without_menu_and_footer(tmp_path: Path, extractor: str) -> None:
    texts, faults = read(tmp_path / "a.html", SAMPLES[".html"], html_extractor=extractor)
    assert not faults and PAGES[0].strip() in texts[0]
    assert not any(word in texts[0] for word in ("About us", "Copyright", "hidden"))


def test_a_page_says_its_encoding(tmp_path: Path) -> None:
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5
    data = samples.page(text).decode().replace("utf-8", "windows-1251").encode("cp1251")
    assert text.strip() in read(tmp_path / "a.html", data)[0][0]


@pytest.mark.parametrize("ending", [".warc", ".warc.gz", ".arc", ".arc.gz"])
def test_web_archives_give_main_texts_and_skip_the_rest(tmp_path: Path, ending: str) -> None:
    data = samples.arc(PAGES) if ".arc" in ending and ".warc" not in ending else SAMPLES[ending]
    if ending == ".arc.gz":
        data = b"".join(PACKED[".gz"](record) for record in _records_of(data))
    texts, faults = read(tmp_path / f"a{ending}", data)
    assert not faults
    for text, expected in zip(texts[:3], PAGES, strict=True):
        assert expected.strip() in text and "About us" not in text
    assert texts[3:] == (["Plain — text"] if "warc" in ending else [])


def _records_of(data: bytes) -> list[bytes]:
    head, *records = data.split(b"http://x/")
    return [head, *(b"http://x/" + record for record in records)]


@pytest.mark.parametrize("ending", [".warc", ".warc.gz"])
def test_a_truncated_web_archive_keeps_its_complete_records(tmp_path: Path, ending: str) -> None:
    data = samples.warc(PAGES * 3, packed=ending.endswith("gz"))
    texts, faults = read(tmp_path / f"a{ending}", data[: len(data) // 2])
    assert 2 <= len(texts) < 9 and len(faults) == 1
    assert faults[0].position == len(texts) + 1


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    [text], faults = read(tmp_path / "a.epub", SAMPLES[".epub"])
    assert not faults and "A title" not in text
    places = [text.index(page.strip()) for page in PAGES]
    assert places == sorted(places)


PROSE = {
    ".docx": ["A heading\n\nThe inserted text.\n\na | b\n\nc | d\n\nA link ends it.\n\nA note."],
    ".odt": ["A heading\n\nThe text,  spaced.\n\nA note.\none\ntwo\na | b"],
    ".ipynb": ["# Title\nwords\n\n```julia\nx = 1\n  y\n```"],
    ".tex": [
        "The Title\n\nIntro\n\nCafé naïve, “quoted”; see . Here $a^2 + b$ stays. (A note.)\n\nA caption.\n\n"
        "int x; % kept\n  y\n\na_b and a link, ."
    ],
    ".eml": ["Grüße\n\nSchön, zwei"],
    ".mbox": ["One\n\nfirst body\nFrom here", "Two\n\nsecond\n\nbody"],
    ".srt": ["Hello there\nyou\n- Yes."],
    ".vtt": ["Hello\nyou"],
    ".dump.xml": [
        "Cat\n\nCats are animals that purr.\n\nHistory\none\ntwo\nh1 | h2\na | b\n\n"
        "See a site, $x^2$, [[x]], Star Trek: Films, Category:Shown."
    ],
}


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("ending", PROSE)
def test_documents_of_other_programs_are_prose(tmp_path: Path, ending: str, compression: str) -> None:
    texts, faults = read(tmp_path / f"a{ending}{compression}", PACKED[compression](SAMPLES[ending]))
    assert [re.sub(r" ?\n\n+", "\n\n", text) for text in texts] == PROSE[ending]
    assert [fault.reason for fault in faults] == (["no text"] if ending == ".dump.xml" else [])


@pytest.mark.parametrize(
    "ending", [".jsonl", ".csv", ".mbox", ".warc", ".wet", ".zip", ".xml", ".srt", ".eml", ".ipynb"]
)
def test_a_file_without_documents_is_a_fault(tmp_path: Path, ending: str) -> None:
    empty = samples.zipped({}) if ending == ".zip" else b""
    texts, faults = read(tmp_path / f"a{ending}", empty)
    assert len(faults) == 1 or texts == [""]


def test_pages_that_are_not_articles_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(samples.wiki())
    settings, tally = FilesSource(name="raw", path=str(path)), Tally()
    list(formats.read(find_files(settings).files[0], settings, LONGEST, tally))
    assert tally.skipped == {"a.xml": {"a redirect, or a page of another name space": 2}}


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    [text], faults = read(tmp_path / "a.pdf", SAMPLES[".pdf"])
    assert not faults and text == "\n\n".join(page.strip() for page in PAGES)


def test_archives_are_opened_one_level_deep_and_bad_members_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homegrown.corpus.streams.MOST_DENSELY", 2)
    inner = samples.zipped({"x.txt": b"deep", "too_deep.zip": samples.zipped({"y.txt": b"lost"})})
    members = {
        "a.txt": b"one",
        ".hidden.txt": b"no",
        "__MACOSX/a.txt": b"no",
        "bad.parquet": b"no parquet",
        "bomb.txt": b"\n" * 3_000_000,
        "image.png": b"\x89PNG\0\0\0",
        "inner.zip": inner,
        "inner.tar.gz": PACKED[".gz"](samples.tarred({"z.jsonl": samples.json_lines(["packed"])})),
        "last.txt": b"last",
    }
    tally = Tally()
    (tmp_path / "a.zip").write_bytes(samples.zipped(members))
    source = FilesSource(name="raw", path=str(tmp_path / "a.zip"))
    records = list(formats.read(find_files(source).files[0], source, LONGEST, tally))
    assert [(r.path, r.text) for r in records if isinstance(r, Document)] == [
        ("a.zip/a.txt", "one"),
        ("a.zip/inner.zip/x.txt", "deep"),
        ("a.zip/inner.tar.gz/z.jsonl", "packed"),
        ("a.zip/last.txt", "last"),
    ]
    assert [r.path for r in records if isinstance(r, Fault)] == [
        "a.zip/bad.parquet",
        "a.zip/bomb.txt",
        "a.zip/inner.zip/too_deep.zip",
    ]
    assert tally.skipped == {
        "a.zip/.hidden.txt": {"hidden": 1},
        "a.zip/__MACOSX/a.txt": {"hidden": 1},
        "a.zip/image.png": {".png: not a supported format": 1},
    }


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homegrown.corpus.streams.MOST_DENSELY", 2)
    for compression in (".xz", ".zst"):
        data = PACKED[compression]((b"x" * 999_999 + b"\n") * 5)
        assert "times its size" in read(tmp_path / f"a.jsonl{compression}", data)[1][-1].reason


def test_an_encrypted_member_is_a_fault(tmp_path: Path) -> None:
    data = bytearray(samples.zipped({"a.txt": b"one"}))
    data[6] |= 1  # the flag in the local head and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        assert archive.infolist()[0].flag_bits & 1
    texts, faults = read(tmp_path / "a.zip", bytes(data))
    assert not texts and "encrypted" in faults[0].reason


def test_addresses_give_what_the_same_local_files_give(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.rm("/corpus", recursive=True) if memory.exists("/corpus") else None
    everything = {f"{n:02d}{ending}": data for n, (ending, data) in enumerate(SAMPLES.items())}
    everything |= {f"deep/{n:02d}{ending}": make(TEXTS) for n, (ending, make) in enumerate(TABLES.items())}
    (tmp_path / "raw" / "deep").mkdir(parents=True)
    for name, data in everything.items():
        (tmp_path / "raw" / name).write_bytes(data)
        memory.pipe(f"/corpus/{name}", data)
    memory.pipe("/corpus/.hidden.txt", b"no")
    memory.pipe("/corpus/a.png", b"no\0")
    there = run(tmp_path / "there", files("memory://corpus", shard_mb=0.001))
    here = run(tmp_path / "here", files(tmp_path / "raw", shard_mb=0.001))
    assert there[:2] == here[:2] and len(there[0]) > 60
    skipped = pq.read_table(tmp_path / "there" / "skipped.parquet").to_pylist()
    assert {row["path"]: row["reason"] for row in skipped if "/" not in row["path"] and "." in row["path"][:1]} == {
        ".hidden.txt": "hidden"
    }
    assert there[2].metrics["skipped_files"] == int(here[2].metrics["skipped_files"]) + 2
    glob = run(tmp_path / "glob", files("memory://corpus/deep/*.jsonl"))
    assert [row["path"] for row in glob[0]] == ["00.jsonl"] * 3
    assert (
        run(tmp_path / "file", files(f"file://{tmp_path}/raw/deep"))[0]
        == run(tmp_path / "path", files(tmp_path / "raw" / "deep"))[0]
    )


def test_a_changed_remote_file_is_other_content(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")

    def seen() -> dict[str, str]:
        with Digests(tmp_path / "digests.sqlite") as digests:
            return content(files("memory://changing"), digests)

    def identity(text: bytes, name: str = "a.txt") -> dict[str, str]:
        if memory.exists("/changing"):
            memory.rm("/changing", recursive=True)
        memory.pipe(f"/changing/{name}", text)
        return seen()

    first = identity(b"one")
    assert seen() == first
    assert identity(b"three") != first and identity(b"one", "b.txt") != first


def test_a_checksum_of_the_file_system_stands_for_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type(fsspec.filesystem("memory"))
    for etag in ("x", "y"):
        monkeypatch.setattr(memory, "info", lambda self, path, tag=etag, **_: {"size": 3, "ETag": tag, "type": "file"})
        assert remote.identity("memory://any") == [3, [["ETag", etag]]]


@pytest.mark.parametrize("path", ["memory://nowhere", "hdfs://127.0.0.1:1/x", "http://127.0.0.1:1/a.txt"])
def test_an_address_that_does_not_answer_is_an_error(path: str) -> None:
    with pytest.raises(UserError, match="Source raw: "):
        find_files(FilesSource(name="raw", path=path))


def test_a_file_system_that_stops_answering_ends_the_run_and_is_no_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").pipe("/gone/a.parquet", samples.parquet(TEXTS))
    fsspec.filesystem("memory").pipe("/gone/b.txt", b"text")
    found = find_files(FilesSource(name="raw", path="memory://gone")).files

    def fail(*_: object) -> bytes:
        raise ConnectionError("the cable is out")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fail)
    for piece in found:
        with pytest.raises(UserError, match="the cable is out; run again"):
            list(formats.read(piece, FilesSource(name="raw", path="x"), LONGEST, Tally()))


@pytest.mark.parametrize(
    ("name", "library"), [("a.pdf", "pypdf"), ("a.htm", "trafilatura"), ("a.warc.gz", "trafilatura")]
)
def test_a_missing_library_is_one_message_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda sought: None if sought == library else sought)
    with pytest.raises(UserError, match=rf"files need {library}, .* pip install 'homegrown\[formats\]'"):
        find_files(FilesSource(name="raw", path=str(tmp_path)))


def _damaged(draw: Callable[[st.SearchStrategy[Any]], Any], data: bytes) -> bytes:
    """Return data cut short, with bytes changed, or nothing but random bytes."""
    noise = random.Random(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["cut", "changed", "overwritten", "random"]))
    if kind == "cut":
        return data[: noise.randrange(len(data))]
    if kind == "random":
        return noise.randbytes(noise.randrange(1, 400))
    changed = bytearray(data)
    for _ in range(noise.randrange(1, 12)):
        changed[noise.randrange(len(data))] = noise.randrange(256)
    if kind == "overwritten":
        at = noise.randrange(len(data))
        changed[at : at + 64] = noise.randbytes(min(64, len(data) - at))
    return bytes(changed)


DAMAGED = {**SAMPLES, **{ending: make(TEXTS) for ending, make in TABLES.items()}}


@pytest.mark.parametrize("ending", DAMAGED)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_no_damage_of_a_file_raises_anything(tmp_path: Path, ending: str, draw: Any) -> None:
    data = _damaged(draw.draw, DAMAGED[ending])
    compression = draw.draw(st.sampled_from(list(PACKED))) if ending not in (".tgz", ".warc.gz") else ""
    if compression:
        data = _damaged(draw.draw, PACKED[compression](data))
    _, faults = read(tmp_path / f"a{ending}{compression}", data)
    assert all(fault.reason and "\n" not in fault.reason for fault in faults)


def test_good_files_beside_damaged_ones_survive(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    noise = random.Random(1)
    for number, (ending, data) in enumerate(DAMAGED.items()):
        (raw / f"bad{number:02d}{ending}").write_bytes(noise.randbytes(300))
        (raw / f"cut{number:02d}{ending}").write_bytes(data[: len(data) // 3])
        (raw / f"good{number:02d}.txt").write_text(f"good {number}")
    documents, quarantine, _ = run(tmp_path / "out", files(raw))
    assert [f"good {n}" for n in range(len(DAMAGED))] == [d["text"] for d in documents if d["path"].startswith("good")]
    assert not [row for row in quarantine if row["path"].startswith("good")]
    told = {row["path"].split("/")[0] for row in quarantine} | {row["path"].split("/")[0] for row in documents}
    missing = {path.name for path in raw.iterdir()} - told
    assert not missing, "neither read nor in quarantine"
