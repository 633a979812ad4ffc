"""Small files of every format that ingest reads, made with other libraries than read them where there are."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

TEXTS = ["first text", 'second,\n"quoted" & <angled> text', "Ünïcödé — 漢字"]
SENTENCE = "The quick brown fox jumps over the lazy dog while the farmer looks for his old grey hat in the barn. "
PAGES = [f"This is page number {n}. " + SENTENCE * 6 for n in ("one", "two", "three")]


def rows(texts: list[str]) -> list[dict[str, object]]:
    return [{"n": n, "text": text} for n, text in enumerate(texts)]


def json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(texts))


def json_array(texts: list[str]) -> bytes:
    return json.dumps(rows(texts), indent=1).encode()


def json_columns(texts: list[str]) -> bytes:
    return json.dumps({"n": list(range(len(texts))), "text": texts}).encode()


def table(delimiter: str) -> Callable[[list[str]], bytes]:
    def write(texts: list[str]) -> bytes:
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter).writerows([["n", "text"], *enumerate(texts)])
        return file.getvalue().encode()

    return write


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(texts)), file)
    return file.getvalue()


def arrow_file(texts: list[str]) -> bytes:
    return _arrow(texts, pa.ipc.new_file)


def arrow_stream(texts: list[str]) -> bytes:
    return _arrow(texts, pa.ipc.new_stream)


def _arrow(texts: list[str], writer: Callable[..., Any]) -> bytes:
    whole = pa.Table.from_pylist(rows(texts))
    file = io.BytesIO()
    with writer(file, whole.schema) as out:
        out.write_table(whole, max_chunksize=2)
    return file.getvalue()


def sgml(texts: list[str]) -> bytes:
    escaped = [text.replace("&", "&amp;").replace("<", "&lt;") for text in texts]
    return "\n".join(
        f"<DOC>\n<DOCNO> {n} </DOCNO>\n<TEXT>\n{t}\n</TEXT>\n</DOC>" for n, t in enumerate(escaped)
    ).encode()


def page(text: str) -> bytes:
    paragraphs = "".join(f"<p>{text}</p>" for _ in range(2))
    return (
        '<!doctype html><html><head><meta charset="utf-8"><title>A title</title><script>var hidden;</script></head>'
        '<body><nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>'
        f"<article><h1>A heading</h1>{paragraphs}</article><footer>Copyright, all rights</footer></body></html>"
    ).encode()


def warc(texts: list[str], *, packed: bool = False) -> bytes:
    """Return a request, a response for each text, a picture, a page that was not found, and a plain text."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    file = io.BytesIO()
    writer = WARCWriter(file, gzip=packed)

    def add(kind: str, data: bytes, status: str, media: str) -> None:
        head = StatusAndHeaders(status, [("Content-Type", media)], protocol="HTTP/1.1")
        uri = "http://example.com/"
        writer.write_record(writer.create_warc_record(uri, kind, payload=io.BytesIO(data), http_headers=head))

    for text in texts:
        add("response", page(text), "200 OK", "text/html; charset=utf-8")
    add("response", b"\x89PNG\0", "200 OK", "image/png")
    add("response", page("Not found."), "404 Not Found", "text/html")
    plain = io.BytesIO("Plain — text".encode())
    writer.write_record(
        writer.create_warc_record("http://x/", "conversion", payload=plain, warc_content_type="text/plain")
    )
    return file.getvalue()


def arc(texts: list[str]) -> bytes:
    """Return a web archive in the format before WARC (Burner and Kahle 1996)."""
    version = b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
    parts = [b"filedesc://x.arc 0.0.0.0 20200101000000 text/plain %d\n%s\n" % (len(version), version)]
    for number, text in enumerate(texts):
        body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page(text)
        parts.append(b"http://x/%d 1.1.1.1 20200101000000 text/html %d\n%s\n" % (number, len(body), body))
    return b"".join(parts)


def epub(texts: list[str]) -> bytes:
    """Return a book whose chapters lie in the file in the opposite of their reading order."""
    manifest = "".join(f'<item id="c{n}" href="text/c%20{n}.xhtml"/>' for n in range(len(texts)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(texts)))
    xmlns = 'xmlns="http://www.idpf.org/2007/opf"'
    files = [(f"OPS/text/c {n}.xhtml", page(text)) for n, text in reversed(list(enumerate(texts)))]
    files += [
        ("META-INF/container.xml", b'<container><rootfiles><rootfile full-path="OPS/a.opf"/></rootfiles></container>'),
        ("OPS/a.opf", f"<package {xmlns}><manifest>{manifest}</manifest><spine>{spine}</spine></package>".encode()),
    ]
    return zipped(dict(files))


def pdf(texts: list[str]) -> bytes:
    """Return a PDF with a page for each text, its objects written by hand (PDF 1.4, sections 3.4 and 5.3)."""
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(texts)))
    font = "<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>>>"
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {len(texts)}>>"]
    for n, text in enumerate(texts):
        drawing = f"BT /F 12 Tf 10 100 Td ({text}) Tj ET"
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 200]/Resources{font}/Contents {4 + 2 * n} 0 R>>")
        objects.append(f"<</Length {len(drawing)}>>stream\n{drawing}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj{text}endobj\n".encode("cp1252")
    entries = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{entries}trailer<</Root 1 0 R/Size {len(places) + 1}>>"
    return data + f"{head}\nstartxref\n{len(data)}\n%%EOF".encode()


def docx() -> bytes:
    """Return a Word document with tracked changes, a table, a link, a note and a comment (ECMA-376, part 1)."""
    main = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    links = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    parts = "http://schemas.openxmlformats.org/package/2006"

    def run(text: str) -> str:
        return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'

    def paragraph(*runs: str) -> str:
        return f"<w:p>{''.join(runs)}</w:p>"

    def cells(*texts: str) -> str:
        return f"<w:tr>{''.join(f'<w:tc>{paragraph(run(text))}</w:tc>' for text in texts)}</w:tr>"

    inserted = f'<w:ins w:id="1">{run("inserted ")}</w:ins>'
    deleted = '<w:del w:id="2"><w:r><w:delText>deleted</w:delText></w:r></w:del>'
    body = (
        paragraph(run("A heading"))
        + paragraph(run("The "), inserted, deleted, run("text"), '<w:r><w:footnoteReference w:id="2"/></w:r>', run("."))
        + f"<w:tbl>{cells('a', 'b')}{cells('c', 'd')}</w:tbl>"
        + paragraph(f'<w:hyperlink r:id="rId2">{run("A link")}</w:hyperlink>', run(" ends it."))
    )
    relation = f'<Relationship Id="rId%d" Type="{links}/%s" Target="%s"%s/>'
    root = f'<Relationships xmlns="{parts}/relationships">%s</Relationships>'
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{parts}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
        "_rels/.rels": root % (relation % (1, "officeDocument", "word/document.xml", "")),
        "word/_rels/document.xml.rels": root
        % (
            relation % (1, "footnotes", "footnotes.xml", "")
            + relation % (2, "hyperlink", "http://example.com", ' TargetMode="External"')
        ),
        "word/footnotes.xml": f'<w:footnotes xmlns:w="{main}"><w:footnote w:id="2">{paragraph(run("A note."))}'
        "</w:footnote></w:footnotes>",
        "word/document.xml": f'<w:document xmlns:w="{main}" xmlns:r="{links}"><w:body>{body}</w:body></w:document>',
    }
    return zipped({name: text.encode() for name, text in files.items()})


def odt() -> bytes:
    """Return an OpenDocument text with tracked changes, a table, a list, a note and a comment (OASIS ODF 1.3)."""
    names = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text", "table")
    )
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>deleted</text:p></text:deletion>"
        "</text:changed-region></text:tracked-changes><text:h>A heading</text:h>"
        '<text:p>The\n <text:span>text</text:span>,<text:s text:c="2"/>spaced<text:note><text:note-citation>1'
        "</text:note-citation><text:note-body><text:p>A note.</text:p></text:note-body></text:note><office:annotation>"
        "<text:p>a comment</text:p></office:annotation>.</text:p>"
        "<text:list><text:list-item><text:p>one</text:p></text:list-item><text:list-item><text:p>two</text:p>"
        "</text:list-item></text:list><table:table><table:table-row><table:table-cell><text:p>a</text:p>"
        "</table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>"
    )
    content = f"<office:document-content{names}><office:body><office:text>{body}</office:text></office:body>"
    return zipped({"mimetype": b"", "content.xml": f"{content}</office:document-content>".encode()})


NOTEBOOK = json.dumps(
    {
        "metadata": {"kernelspec": {"language": "julia"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "words"]},
            {"cell_type": "code", "source": "x = 1\n  y", "outputs": [{"text": "an output"}]},
            {"cell_type": "code", "source": []},
        ],
    }
).encode()

TEX = rb"""\documentclass{article}
\usepackage{hyperref} % a comment
\title{The \emph{Title}}
\begin{document}
\maketitle
\section[short]{Intro}\label{sec:i}
Caf\'e na\"ive, ``quoted''; see \cite[p.~3]{knuth}. Here $a^2 + b$ stays.\footnote{A note.}
\begin{figure}\includegraphics{a.png}\caption{A caption.}\end{figure}
\begin{lstlisting}[language=C]
int x; % kept
  y
\end{lstlisting}
\verb|a_b| and \href{http://example.com}{a link}, \today.
\end{document}
hidden
"""

MAIL = b"""\
From: A <a@example.com>
Subject: =?utf-8?B?R3LDvMOfZQ==?=
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: multipart/alternative; boundary=y

--y
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Sch=F6n, zwei
--y
Content-Type: text/html

<p>not this</p>
--y--
--x
Content-Type: application/pdf; name=a.pdf
Content-Transfer-Encoding: base64

AAAA
--x--
"""

MAILBOX = b"""\
From a@example.com Mon
Subject: One

first body
>From here

From b@example.com Tue
Subject: Two
Content-Type: text/html; charset=utf-8

<p>second</p><p>body</p>
"""

SRT = (
    b"1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>Hello</i> there\r\nyou\r\n\r\n"
    b"2\r\n00:00:03,000 --> 00:00:04,000\r\n- Yes.\r\n"
)
VTT = (
    b"WEBVTT\n\n00:01.000 --> 00:02.000\n<v Bob>Hello\n\n00:02.000 --> 00:04.000\nHello\n\n"
    b"00:04.000 --> 00:05.000\nyou\n"
)

_WIKITEXT = """{{Infobox|a=b}}
'''Cats''' are [[animal|animals]]<ref name="x">{{cite}} A book</ref> that<!-- hidden --> [[purr]].
[[Datei:a.jpg|thumb|A [[caption]]]]
== History ==
* one
* two
{| class="wikitable"
! h1 !! h2
|-
| a || b
|}
See [http://example.com a site], <math>x^2</math>, <nowiki>[[x]]</nowiki>, [[Star Trek: Films]], [[:Category:Shown]].
<gallery>File:b.jpg|no</gallery>
[[Kategorie:Katzen|sorted]]
[[de:Katze]]
"""


def wiki() -> bytes:
    """Return a dump of MediaWiki: an article, a redirect, a talk page, an article without text (export schema 0.11)."""

    def page(title: str, space: int, text: str, extra: str = "") -> str:
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        return f"<page><title>{title}</title><ns>{space}</ns>{extra}<revision><text>{text}</text></revision></page>"

    info = '<siteinfo><namespaces><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace>'
    pages = page("Cat", 0, _WIKITEXT) + page("Tomcat", 0, "#REDIRECT [[Cat]]", '<redirect title="Cat"/>')
    pages += page("Talk:Cat", 1, "talk") + page("Empty", 0, "{{stub}}")
    root = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11">'
    return f"{root}{info}</namespaces></siteinfo>{pages}</mediawiki>".encode()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
TABLES: dict[str, Callable[[list[str]], bytes]] = {  # several documents with any text, by ending
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_array,
    ".columns.json": json_columns,
    ".lines.json": json_lines,
    ".csv": table(","),
    ".tsv": table("\t"),
    ".parquet": parquet,
    ".arrow": arrow_file,
    ".stream.arrow": arrow_stream,
    ".feather": arrow_file,
    ".sgm": sgml,
    ".sgml": sgml,
    ".xml": sgml,
}
SAMPLES: dict[str, bytes] = {  # one file of every other kind
    ".txt": TEXTS[1].encode(),
    ".md": b"\xef\xbb\xbf" + TEXTS[1].encode(),
    ".rst": TEXTS[1].encode(),
    ".html": page(PAGES[0]),
    ".htm": page(PAGES[0]),
    ".warc": warc(PAGES),
    ".warc.gz": warc(PAGES, packed=True),
    ".wet": warc([]),
    ".arc": arc(PAGES),
    ".epub": epub(PAGES),
    ".pdf": pdf(PAGES),
    ".xhtml": page(PAGES[0]),
    ".docx": docx(),
    ".odt": odt(),
    ".ipynb": NOTEBOOK,
    ".tex": TEX,
    ".eml": MAIL,
    ".mbox": MAILBOX,
    ".srt": SRT,
    ".vtt": VTT,
    ".dump.xml": wiki(),
    ".zip": zipped(
        {"a.jsonl": json_lines(TEXTS), "deep/b.parquet": parquet(TEXTS), "c.txt.gz": gzip.compress(b"text")}
    ),
    ".tar": tarred({"a.jsonl": json_lines(TEXTS), "deep/b.parquet": parquet(TEXTS)}),
    ".tgz": gzip.compress(tarred({"./a.csv": table(",")(TEXTS)})),
}
