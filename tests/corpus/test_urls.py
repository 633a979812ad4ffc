"""Lists of domains and URLs as rules: what a line covers, and URLs on their way from a source to the filter."""

import gzip
import json
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homegrown.config.filter import FilterSettings
from homegrown.corpus.filter import filter_documents
from homegrown.corpus.ingest import ingest
from homegrown.corpus.quality.urls import look_up
from homegrown.util.errors import UserError
from tests.corpus.made_up import digests, files, rows_of, write_documents
from tests.corpus.test_filter import LAX

LONG = "example.com" + "".join(f"/{number}" for number in range(3000))


@pytest.mark.parametrize(
    ("line", "covered", "others"),
    [
        (
            "example.com",
            "http://example.com https://example.com/ https://www.example.com/a?b=c#d http://a.b.example.com "
            "HTTPS://EXAMPLE.COM/ http://example.com./a http://example.com:80 https://example.com:443/a "
            "http://example.com:8080/ https://user:secret@example.com/ //example.com/a example.com/a Example.com "
            "http://example.com?a=b http://example.com#a http://example.com\\\\@other.org/ http://ex%61mple.com/",
            "http://notexample.com http://example.com.evil.org http://example.co http://com "
            "http://example.com@evil.org/ http://evil.org/example.com http://evil.org/?u=http://example.com "
            "http://evil.org#example.com http://my-example.com/ http://examplexcom/",
        ),
        ("Example.COM.", "http://example.com http://a.example.com./", "http://notexample.com"),
        ("http://example.com/", "https://example.com/a http://a.example.com", "http://example.org"),
        ("  example.com  # a comment", "http://example.com", "http://a.comment"),
        ("co.uk", "http://a.co.uk http://www.b.c.co.uk/", "http://uk http://a.uk http://aco.uk http://a.co.uk.org"),
        ("uk", "http://a.co.uk http://b.uk", "http://a.uk.com http://buk"),
        (
            "www.gov.uk",
            "https://www.gov.uk/a https://gov.uk https://a.www.gov.uk",
            "https://nhs.gov.uk https://a.gov.uk https://www.a.gov.uk",
        ),
        (
            "example.com/path",
            "http://example.com/path https://www.example.com/path/ http://example.com/path/a http://example.com/path?a "
            "http://EXAMPLE.com/Path#a http://example.com:80/path http://example.com:81/path http://example.com/p%61th",
            "http://example.com/ http://example.com http://example.com/pathology http://example.com/a/path "
            "http://a.example.com/path http://example.com/path.html",
        ),
        ("https://www.example.com/path/", "http://example.com/path", "http://example.com/pat http://example.com"),
        (
            "example.com/watch?v=1",
            "https://example.com/watch?v=1 https://example.com/watch?v=1&t=5 https://example.com/watch?V=1#t",
            "https://example.com/watch?v=12 https://example.com/watch https://example.com/watch?t=5&v=1",
        ),
        (
            "example.com?a=1",
            "http://example.com/?a=1 http://example.com?a=1&b",
            "http://example.com/ http://example.com",
        ),
        (
            "example.com:8080",
            "http://example.com:8080/a http://a.example.com:8080 http://example.com:08080",
            "http://example.com http://example.com:80/ http://example.com:80801/",
        ),
        ("example.com:443", "http://example.com http://example.com:81", "http://example.org:443"),
        (
            "münchen.de",
            "http://münchen.de http://MÜNCHEN.de http://xn--mnchen-3ya.de https://a.XN--MNCHEN-3YA.DE/ "
            "http://m%C3%BCnchen.de http://mu\u0308nchen.de",
            "http://munchen.de http://xn--mnchen-3yb.de",
        ),
        ("xn--mnchen-3ya.de", "http://münchen.de/a", "http://mnchen.de"),
        ("straße.de", "http://xn--strae-oqa.de http://Straße.de", "http://strasse.de"),
        ("例え。jp", "http://例え.jp http://xn--r8jz45g.jp", "http://例.jp"),
        ("192.0.2.1", "http://192.0.2.1:80/a http://192.0.2.1", "http://192.0.2.11 http://9.192.0.2.1 http://2.1"),
        (
            "[2001:db8::1]",
            "http://[2001:db8::1]/ http://[2001:DB8:0:0::1]:80/a http://u@[2001:0db8::0001]:9",
            "http://[2001:db8::2] http://[2001:db8::1 http://[2001:db8::1]x",
        ),
        ("2001:db8::1", "http://[2001:db8::1]/", "http://2001/ http://[::1]"),
        ("localhost", "http://localhost:4200/runs", "http://notlocalhost"),
        ("example.com/0/1/2/3", f"http://{LONG}", "http://example.com/0/1/2"),
    ],
)
def test_a_line_covers(tmp_path: Path, line: str, covered: str, others: str) -> None:
    (tmp_path / "list.txt").write_text(f"# comment\n\n{line}\nunrelated.org\n", encoding="utf-8")
    paths = [str(tmp_path / "list.txt")]
    for urls, expected in ((covered.split(), True), (others.split(), False)):
        found = look_up(pa.array(urls), paths, "list")
        assert [url for url, value in zip(urls, found, strict=True) if (value == 1) != expected] == []


def test_lines_are_counted_and_what_is_no_url_has_no_value(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("\ufeffexample.com\r\na.example.com\r\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("example.com\nexample.com/a\ncom\n")
    urls = ["http://a.example.com/a", "http://example.com/a/b", "http://example.org", None, "", "none of them"]
    urls += ["http://", "file:///a/b", "http://a..b/", f"http://{'a' * 64}.com", "http://a.com:b", "http://1.2.3"]
    found = look_up(pa.array(urls), [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")], "lists")
    assert found[:3].tolist() == [3, 3, 0]
    assert np.isnan(found[3:]).all()


@pytest.mark.parametrize(
    "line",
    [
        "*.example.com",
        "example.com/*",
        "https://example.com/a*",
        ".example.com",
        "0.0.0.0 example.com",
        "a..b",
        "ftp://example.com",
        "||example.com^",
        "example,com",
        "http://",
        "/path",
        "example.com:port",
        "1.2.3",
        "[::1",
        "http://[example.com]",
        "x" * 300 + ".com",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"example.com # good\n\n{line}\n")
    with pytest.raises(UserError, match=r"^filter\.x: .*list\.txt, line 3: '.{1,81}' (is nei|has an|ends w)"):
        look_up(pa.array([], pa.string()), [str(path)], "filter.x")


def test_what_is_no_list_is_an_error(tmp_path: Path) -> None:
    for content, message in ((b"# nothing\n", "no domain or URL in"), (b"\xff\xfe", "is not UTF-8 text")):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            look_up(pa.array([], pa.string()), [str(tmp_path / "list.txt")], "x")
    for name in ("absent.txt", ".", "/dev/zero"):
        with pytest.raises(UserError, match="cannot be read"):
            look_up(pa.array([], pa.string()), [str(tmp_path / name)], "x")


def test_lists_are_rules_like_any_other(tmp_path: Path, executor: Executor) -> None:
    (tmp_path / "block.txt").write_text("spam.com\nexample.com/ads\n")
    (tmp_path / "allow.txt").write_text("example.com\n")
    urls = ["http://example.com/a", "https://a.spam.com", "http://example.com/ads/1", None, "http://other.org", "???"]
    texts = [f"text {number}" for number in range(len(urls))]
    write_documents(tmp_path / "in", texts, rows=4, urls=urls)
    lists = {f"{name}ed_urls": {"paths": [str(tmp_path / f"{name}.txt")]} for name in ("block", "allow")}
    settings = FilterSettings.model_validate(LAX | lists)
    outcome = filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    kept = rows_of(tmp_path / "out" / "documents")
    assert [(row["text"], row["url"]) for row in kept] == [(texts[0], urls[0]), (texts[3], None), (texts[5], "???")]
    dropped = rows_of(tmp_path / "out" / "dropped")
    assert [(row["url"], row["rule"], row["value"], row["threshold"]) for row in dropped] == [
        (urls[1], "blocked_urls.max_matches", 1, 0),
        (urls[2], "blocked_urls.max_matches", 1, 0),
        (urls[4], "allowed_urls.min_matches", 0, 1),
    ]
    assert outcome.metrics["without_url"] == 2
    assert rows_of(tmp_path / "out" / "overlap") == [
        {"rule": "blocked_urls.max_matches", "other": "allowed_urls.min_matches", "both": 1}
    ]
    before = digests(tmp_path / "out")
    assert filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor) == outcome
    assert digests(tmp_path / "out") == before


def test_lists_without_any_url_to_judge_are_an_error(tmp_path: Path, executor: Executor) -> None:
    (tmp_path / "block.txt").write_text("spam.com\n")
    write_documents(tmp_path / "in", ["one text", "another"])
    settings = FilterSettings.model_validate(LAX | {"blocked_urls": {"paths": [str(tmp_path / "block.txt")]}})
    with pytest.raises(UserError, match="no document has a URL; set url_column"):
        filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)


ROWS = [{"text": "first text", "url": "http://a.org/1", "meta": {"url": "m1"}}]
ROWS += [{"text": "second text", "url": None, "meta": {"url": "m2"}}, {"text": "third", "url": "", "meta": None}]


@pytest.mark.parametrize(
    ("column", "expected"),
    [("url", ["http://a.org/1", None, None]), ("meta.url", ["m1", "m2", None]), ("x", [None] * 3)],
)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "a.parquet", "a.arrow"])
def test_ingest_keeps_the_url(
    tmp_path: Path, executor: Executor, name: str, column: str, expected: list[str | None]
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if name == "a.json":
        path.write_text(json.dumps(ROWS))
    elif name == "a.jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        table = pa.Table.from_pylist(ROWS)
        table = table.set_column(1, "url", table["url"].combine_chunks().dictionary_encode())
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    ingest(tmp_path / "out", files(path.parent, url_column=column), executor=executor)
    assert [row["url"] for row in rows_of(tmp_path / "out" / "documents")] == expected


def test_ingest_keeps_the_url_of_other_formats(tmp_path: Path, executor: Executor) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\na page of the web"
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: <http://b.org/x>\r\nContent-Length: %d\r\n\r\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.warc").write_bytes(head % len(page) + page + b"\r\n\r\n")
    arc = b"http://c.org/ 192.0.2.1 20000101000000 text/plain %d\n" % len(page)
    (tmp_path / "in" / "b.arc").write_bytes(arc + page + b"\n")
    (tmp_path / "in" / "c.csv").write_text("url,text\nhttp://d.org,a row\n,another row\n")
    (tmp_path / "in" / "d.json").write_text('{"pages": [{"text": "inside", "url": "http://e.org"}]}')
    (tmp_path / "in" / "e.jsonl").write_text(json.dumps({"text": "long", "url": "http://f.org/" + "a" * 9000}) + "\n")
    (tmp_path / "in" / "f.jsonl").write_text('{"text": "a list", "url": ["http://g.org"]}\n')
    (tmp_path / "in" / "g.txt").write_text("plain")
    ingest(tmp_path / "out", files(tmp_path / "in"), executor=executor)
    found = [(row["path"], row["url"]) for row in rows_of(tmp_path / "out" / "documents")]
    assert found == [
        ("a.warc", "http://b.org/x"),
        ("b.arc", "http://c.org/"),
        ("c.csv", "http://d.org"),
        ("c.csv", None),
        ("d.json", "http://e.org"),
        ("e.jsonl", None),
        ("f.jsonl", None),
        ("g.txt", None),
    ]


def test_a_table_without_header_and_a_nested_array_name_the_url_as_the_text(tmp_path: Path, executor: Executor) -> None:
    (tmp_path / "a.csv").write_text("http://a.org,a row\n")
    ingest(
        tmp_path / "one", files(tmp_path / "a.csv", text_column="2", url_column="1", header=False), executor=executor
    )
    (tmp_path / "b.json").write_text('{"pages": [{"body": "inside", "url": "http://b.org"}, {"body": "no"}]}')
    settings = files(tmp_path / "b.json", text_column="pages.body", url_column="pages.url")
    ingest(tmp_path / "two", settings, executor=executor)
    found = [row["url"] for name in ("one", "two") for row in rows_of(tmp_path / name / "documents")]
    assert found == ["http://a.org", "http://b.org", None]
