"""Web pages, single and in WARC, WET and ARC archives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from homegrown.corpus.encodings import Undecodable
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.main_text import main_text
from homegrown.corpus.readers.markup import declared_in
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import Stream, first_line, read_all, seekable

_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_SPOOLED = 2_000 * MEGABYTE  # of a web archive inside another archive
_NO_TEXT = "no main text"


def read_html(file: File) -> Iterator[Document | Fault]:
    """Yield the main text of a page; raise TooMuch or Undecodable."""
    text, replaced = _main_text(file, read_all(file.stream, file.longest), None)
    file.next()
    yield file.document(text, replaced) if text else file.fault(_NO_TEXT)


def _main_text(file: File, data: bytes, charset: str | None) -> tuple[str, int]:
    """Return the main text of a page and the number of places with invalid bytes in it; raise Undecodable.

    `charset` is the encoding by the server; without it, the page's declaration counts.
    """
    page, replaced = file.decode(data, charset or declared_in(data))
    text = main_text(page, file.source.html_extractor)
    return text, min(replaced, text.count("\ufffd"))


@dataclass(frozen=True)
class _Record:
    """A page of a web archive: media type, encoding if known, bytes or what is wrong."""

    kind: str
    charset: str | None
    data: bytes
    problem: str = ""


def read_warc(file: File) -> Iterator[Document | Fault]:
    """Yield the main text of each HTML page and the plain texts; positions count responses, conversions, resources.

    Other media types and statuses other than 2xx are skipped and counted. fastwarc reads the archive; where it fails,
    as on the older ARC format and on some damage, warcio resumes at the same record. Damage that stops both is one
    fault; earlier records stay.
    """
    with seekable(file.stream, _SPOOLED) as stream:
        problem = ""
        for records in (_fastwarc, _warcio):
            try:
                done = file.tally.lines
                stream.seek(0)
                for number, record in enumerate(records(stream, file.longest)):
                    if number >= done:
                        file.next()
                        yield from _texts(file, record)
                return
            except Exception as error:  # of a parser: OSError, but also others on damaged input
                problem = problem or first_line(error)
        file.next()
        yield file.fault(f"the archive cannot be read from here on: {problem}")


def _texts(file: File, record: _Record | str) -> Iterator[Document | Fault]:
    if isinstance(record, str):
        file.tally.skip(file.piece.locator, record)
    elif record.problem:
        yield file.fault(record.problem)
    else:
        try:
            is_page = record.kind in _PAGES
            text, replaced = (_main_text if is_page else _plain_text)(file, record.data, record.charset)
        except Undecodable as error:
            yield file.fault(str(error))
        except Exception as error:  # of an HTML parser
            yield file.fault(f"the page cannot be read: {error.__class__.__name__}: {first_line(error)}")
        else:
            yield file.document(text, replaced) if text or not is_page else file.fault(_NO_TEXT)


def _plain_text(file: File, data: bytes, charset: str | None) -> tuple[str, int]:
    return file.decode(data, charset)


def _record(kind: str | None, charset: str | None, status: str | None, data: bytes, longest: int) -> _Record | str:
    """Return a readable record; why it is skipped for other media types, error pages and redirects."""
    kind = (kind or "").split(";")[0].strip().lower()
    if status and not status.startswith("2"):
        return f"status {status}"
    if kind not in _PAGES and kind != "text/plain":
        return f"{kind or 'no media type'}: neither a page nor plain text"
    if len(data) > longest:
        return _Record(kind, charset, b"", f"longer than {longest / MEGABYTE:g} MB (max_document_mb)")
    return _Record(kind, charset, data)


def _fastwarc(stream: Stream, longest: int) -> Iterator[_Record | str]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    for record in ArchiveIterator(cast(Any, stream), record_types=wanted, parse_http=False):
        announced = record.headers.get("Content-Length")
        if announced is None:
            yield _Record("", None, b"", "the record's head is damaged")
            continue
        if record.content_length > 2 * longest:
            yield _Record("", None, b"", f"record of {record.content_length / MEGABYTE:.1f} MB, over max_document_mb")
            continue
        block = record.reader.read()
        if len(block) < int(announced):
            yield _Record("", None, b"", f"the record ends after {len(block)} of {announced} bytes")
            continue
        kind = record.headers.get("Content-Type")
        if record.is_http:
            record.set_bytes_content(block)
            record.parse_http(auto_decode="all")
            status = str(record.http_headers.status_code or "")
            data = record.reader.read(longest + 1)
            yield _record(record.http_content_type or "text/html", record.http_charset, status, data, longest)
        else:
            yield _record(kind, None, None, block, longest)


def _warcio(stream: Stream, longest: int) -> Iterator[_Record | str]:
    from warcio.archiveiterator import ArchiveIterator

    for record in ArchiveIterator(stream, arc2warc=True):
        if record.rec_type not in ("response", "conversion", "resource"):
            continue
        data = record.content_stream().read(longest + 1)
        heads = record.http_headers
        kind = (heads or record.rec_headers).get_header("Content-Type")
        status = heads.get_statuscode() if heads else None
        yield _record(kind, _charset(kind), status, data, longest)


def _charset(kind: str | None) -> str | None:
    """Return the charset of a Content-Type."""
    _, found, charset = (kind or "").lower().partition("charset=")
    return charset.split(";")[0].strip("\"' ") if found else None
