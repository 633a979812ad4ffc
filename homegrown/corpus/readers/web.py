"""Web pages, single and in WARC, WET and ARC archives."""

from collections.abc import Iterator

from homegrown.corpus.encodings import Undecodable
from homegrown.corpus.readers import web_archive
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.main_text import main_text
from homegrown.corpus.readers.markup import declared_in
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import first_line, read_all, seekable

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


def read_warc(file: File) -> Iterator[Document | Fault]:
    """Yield the main text of each HTML page and the plain texts; positions count responses, conversions, resources.

    Other media types and statuses other than 2xx are skipped and counted. A damaged record is a fault.
    """
    with seekable(file.stream, _SPOOLED) as stream:
        for record in web_archive.records(stream, file.piece.size, file.longest):
            file.next()
            if isinstance(record, web_archive.Other):
                file.tally.skip(file.piece.locator, record.reason)
            elif isinstance(record, web_archive.Wrong):
                yield file.fault(record.reason)
            else:
                yield _document(file, record)


def _document(file: File, page: web_archive.Page) -> Document | Fault:
    is_page = page.kind in web_archive.PAGES
    try:
        if is_page:
            text, replaced = _main_text(file, page.data, page.charset)
        else:
            text, replaced = file.decode(page.data, page.charset)
    except Undecodable as error:
        return file.fault(str(error))
    except Exception as error:  # of an HTML parser
        return file.fault(f"the page cannot be read: {error.__class__.__name__}: {first_line(error)}")
    return file.document(text, replaced, page.url) if text or not is_page else file.fault(_NO_TEXT)
