"""Speed of ingest by format, quality of main texts of web pages, and memory for a big file.

    python -m benchmarks.corpus_ingest          MB of text per CPU second, one process; a few minutes
    python -m benchmarks.corpus_ingest --big    also the peak memory of a JSONL and a Parquet file of 2 GB

The text is Wikipedia's where `../shared/corpora` is there, else the documentation of the installed packages.
"""

import csv
import gzip
import io
import json
import multiprocessing
import random
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from homegrown.config.corpus import Extractor, FilesSource, IngestSettings
from homegrown.corpus import packages
from homegrown.corpus.ingest import ingest
from homegrown.corpus.readers import formats
from homegrown.corpus.readers.main_text import main_text
from homegrown.corpus.records import MEGABYTE, Document, Tally
from homegrown.corpus.sources import find_files
from homegrown.corpus.text import clean
from homegrown.util.parallel import process_pool

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
Row = dict[str, str | int | float]
_TEXT_MB = 20  # to read per format
_PAGES = 300
_BIG = 2_000_000_000  # bytes


def texts(megabytes: float) -> tuple[list[str], str]:
    """Return documents with this much text, and their origin."""
    wikipedia = CORPORA / "wikipedia-2015.jsonl.gz"
    found: list[str] = []
    size = 0
    for text in _wikipedia(wikipedia) if wikipedia.exists() else _documentation():
        if size >= megabytes * MEGABYTE:
            break
        found.append(text)
        size += len(text.encode())
    origin = "Wikipedia" if wikipedia.exists() else "installed documentation, for ../shared/corpora is missing"
    return found, origin


def _wikipedia(path: Path) -> Iterator[str]:
    with gzip.open(path) as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _documentation() -> Iterator[str]:
    for piece in packages.modules():
        yield from (record.text for record in packages.read((piece,)) if isinstance(record, Document))


def _json_lines(documents: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in documents)


def _table(documents: list[str], delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([["text"], *([text] for text in documents)])
    return file.getvalue().encode()


def _parquet(documents: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": documents}), file, compression="zstd", row_group_size=1000)
    return file.getvalue()


def _arrow(documents: list[str]) -> bytes:
    file = io.BytesIO()
    table = pa.table({"text": documents})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return file.getvalue()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _sgml(documents: list[str]) -> bytes:
    return "\n".join(f"<DOC><TEXT>{_escaped(text)}</TEXT></DOC>" for text in documents).encode()


def page(text: str, generator: random.Random) -> str:
    """Return a synthetic web page with the paragraphs of a text, a menu, links, comments and a footer."""

    def words(count: int) -> str:
        return " ".join(generator.choice(_MENU) for _ in range(count))

    links = "".join(f'<li><a href="/{n}">{words(generator.randrange(1, 5))}</a></li>' for n in range(30))
    related = "".join(f'<div class="card"><a href="/r{n}">{words(8)}</a><p>{words(12)}</p></div>' for n in range(6))
    comments = "".join(f'<div class="comment"><b>{words(1)}</b><p>{words(20)}</p></div>' for _ in range(5))
    body = "".join(f"<p>{_escaped(part)}</p>\n" for part in text.split("\n") if part.strip())
    main = generator.choice(["<article>{}</article>", '<div id="content">{}</div>', "<main>{}</main>"])
    return (
        f"<!doctype html><html><head><meta charset=utf-8><title>{words(5)}</title><style>p {{margin: 0}}</style></head>"
        f'<body><header><div class="logo">{words(3)}</div><nav><ul>{links}</ul></nav></header>{main.format(body)}'
        f'<aside class="sidebar">{related}</aside><div id="comments">{comments}</div>'
        f"<footer><p>{words(15)}</p><ul>{links}</ul></footer><script>var x = '{words(9)}';</script></body></html>"
    )


_MENU = (
    "home about contact login subscribe newsletter privacy terms share tweet cookies advertise careers help".split()  # noqa: SIM905
)


def _warc(pages: list[str]) -> bytes:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    for text in pages:
        head = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
        payload = io.BytesIO(text.encode())
        writer.write_record(
            writer.create_warc_record("http://example.com/", "response", payload=payload, http_headers=head)
        )
    return file.getvalue()


def _wet(documents: list[str]) -> bytes:
    from warcio.warcwriter import WARCWriter

    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    for text in documents:
        payload = io.BytesIO(text.encode())
        record = writer.create_warc_record(
            "http://example.com/", "conversion", payload=payload, warc_content_type="text/plain"
        )
        writer.write_record(record)
    return file.getvalue()


def _epub(documents: list[str]) -> bytes:
    pages = {f"c{n}.xhtml": f"<html><body><p>{_escaped(text)}</p></body></html>" for n, text in enumerate(documents)}
    items = "".join(f'<item id="{name}" href="{name}"/>' for name in pages)
    spine = "".join(f'<itemref idref="{name}"/>' for name in pages)
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    container = '<container><rootfiles><rootfile full-path="a.opf"/></rootfiles></container>'
    return _zip({"META-INF/container.xml": container, "a.opf": package, **pages})


def _zip(members: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


def _tar(members: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in members.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _files(documents: list[str]) -> dict[str, bytes]:
    """Return a file per format by name; slow formats get fewer documents."""
    generator = random.Random(1)
    some = [text for text in documents if len(text) > 1000][:_PAGES]
    pages = [page(text, generator) for text in some]
    members = {f"{n}.txt": text for n, text in enumerate(documents)}
    lines = _json_lines(documents)
    return {
        "lines.txt": "<|endoftext|>".join(documents).encode(),
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.zst": zstandard.compress(lines),
        "a.json": json.dumps([{"text": text} for text in documents], ensure_ascii=False).encode(),
        "a.csv": _table(documents, ","),
        "a.tsv": _table(documents, "\t"),
        "a.parquet": _parquet(documents),
        "a.arrow": _arrow(documents),
        "a.sgml": _sgml(documents),
        "a.wet.gz": _wet(documents),
        "a.warc.gz": _warc(pages),
        "resiliparse.warc.gz": _warc(pages),
        "a.epub": _epub(some),
        "a.zip": _zip(members),
        "a.tar.gz": _tar(members),
    }


def read_speeds(folder: Path, documents: list[str]) -> list[Row]:
    """Return MB of text per CPU second for each format: reading alone, and a complete unit of ingest."""
    rows: list[Row] = []
    for name, data in _files(documents).items():
        path = folder / name
        path.write_bytes(data)
        extractor: Extractor = "resiliparse" if name.startswith("resiliparse") else "trafilatura"
        source = FilesSource(name="x", path=str(path), separator="<|endoftext|>", html_extractor=extractor)
        [piece] = find_files(source).files
        begin = time.process_time()
        records = list(formats.read(piece, source, 100 * MEGABYTE, Tally()))
        seconds = time.process_time() - begin
        size = sum(len(record.text.encode()) for record in records if isinstance(record, Document)) / MEGABYTE
        settings = IngestSettings(sources=[source], max_document_mb=100)
        with ThreadPoolExecutor(1) as executor:
            begin = time.process_time()
            ingest(folder / f"{name}.out", settings, executor=executor)
            total = time.process_time() - begin
        rows.append(
            {"what": name, "read_mb_s": size / seconds, "ingest_mb_s": size / total, "file_mb": len(data) / MEGABYTE}
        )
    return rows


def clean_speed(documents: list[str]) -> Row:
    """Return MB per CPU second of cleaning: Unicode normal form, control characters, mojibake."""
    begin = time.process_time()
    for text in documents:
        clean(text)
    seconds = time.process_time() - begin
    return {"what": "clean", "mb_s": sum(len(text.encode()) for text in documents) / MEGABYTE / seconds}


def main_text_quality(documents: list[str]) -> list[Row]:
    """Return F1 of the extracted words and pages per CPU second for both extractors, on seeded synthetic pages.

    Such pages are simple: both find all their text and nothing else. They differ on real ones, labelled by hand; the
    figures are in `homegrown.corpus.readers.main_text`.
    """
    generator = random.Random(1)
    some = [text for text in documents if len(text) > 1000][:_PAGES]
    pages = [page(text, generator) for text in some]
    rows: list[Row] = []
    extractors: tuple[Extractor, ...] = ("trafilatura", "resiliparse")
    for extractor in extractors:
        begin = time.process_time()
        found = [main_text(data, extractor) for data in pages]
        seconds = time.process_time() - begin
        scores = [_f1(Counter(one.split()), Counter(text.split())) for one, text in zip(found, some, strict=True)]
        megabytes = sum(len(data.encode()) for data in pages) / MEGABYTE
        rows.append(
            {
                "what": extractor,
                "f1": sum(scores) / len(scores),
                "pages_s": len(pages) / seconds,
                "markup_mb_s": megabytes / seconds,
            }
        )
    return rows


def _f1(found: Counter[str], expected: Counter[str]) -> float:
    both = (found & expected).total()
    return 2 * both / max(1, found.total() + expected.total())


@contextmanager
def _watched(peaks: dict[str, float]) -> Iterator[None]:
    """Record the peak resident memory in MB of this process, of one child, and of all together."""
    ended = threading.Event()
    parent = psutil.Process()

    def watch() -> None:
        while not ended.wait(0.05):
            sizes = []
            for process in [parent, *parent.children(recursive=True)]:
                try:
                    sizes.append(process.memory_info().rss / MEGABYTE)
                except psutil.Error:
                    continue
            for name, size in (
                ("parent_mb", sizes[0]),
                ("child_mb", max(sizes[1:], default=0)),
                ("all_mb", sum(sizes)),
            ):
                peaks[name] = max(peaks.get(name, 0), size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _big_json_lines(path: Path, documents: list[str]) -> None:
    with path.open("wb") as file:
        while file.tell() < _BIG:
            file.write(_json_lines(documents))


def _big_parquet(path: Path, documents: list[str]) -> None:
    table = pa.table({"text": documents})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(-(-_BIG // table.nbytes)):
            writer.write_table(table)


def big_file(folder: Path, name: str, write: Callable[[Path, list[str]], None], documents: list[str]) -> Row:
    """Return the peak memory and the time of ingesting a file of 2 GB of text with two processes."""
    path = folder / name
    # In a process of its own, so that writing does not count as the parent's memory.
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, documents))
    writer.start()
    writer.join()
    settings = IngestSettings(sources=[FilesSource(name="big", path=str(path))])
    peaks: dict[str, float] = {}
    pool: Executor
    with process_pool(2) as pool, _watched(peaks):
        begin = time.monotonic()
        outcome = ingest(folder / f"{name}.out", settings, executor=pool)
        seconds = time.monotonic() - begin
    path.unlink()
    return {"what": name, "seconds": seconds, "text_gb": int(outcome.metrics["text_bytes"]) / 1e9, **peaks}


def rows(*, big: bool = False) -> Iterator[Row]:
    """Yield all rows: `what` was measured, and its figures."""
    documents, origin = texts(_TEXT_MB)
    print(f"\nIngest, MB of text per CPU second. Text: {origin}.")
    with tempfile.TemporaryDirectory() as folder:
        yield from read_speeds(Path(folder), documents)
        yield clean_speed(documents)
        yield from main_text_quality(documents)
        if big:
            yield big_file(Path(folder), "2gb.jsonl", _big_json_lines, documents)
            yield big_file(Path(folder), "2gb.parquet", _big_parquet, documents)


def measure(*, big: bool = True) -> dict[str, float]:
    """Print all rows; none is in the JSON of the last line."""
    for row in rows(big=big):
        figures = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, int | float))
        print(f"{row['what']:<22}", *figures, sep="  ", flush=True)
    return {}


if __name__ == "__main__":
    measure(big="--big" in sys.argv[1:])
