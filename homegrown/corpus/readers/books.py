"""Books: EPUB in reading order and PDF page by page, one document each."""

import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote
from xml.etree import ElementTree

from homegrown.corpus.encodings import Undecodable
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.markup import declared_in, text_of_page
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import TooMuch, first_line, seekable

SPOOLED = 20
"""Limit of a file, as a multiple of max_document_mb: pictures make a book larger than its text."""


def read_epub(file: File) -> Iterator[Document | Fault]:
    """Yield the chapters of the spine as one document (EPUB 3.3: container.xml names the package, that the spine).

    An unreadable chapter is a fault; the document lacks it.
    """
    chapters = []
    left, replaced = file.longest, 0
    with seekable(file.stream, SPOOLED * file.longest) as stream, zipfile.ZipFile(stream) as book:
        file.next()
        for name in _spine(book, file.longest):
            try:
                data = member(book, name, left)
                left -= len(data)
                text, found = file.decode(data, declared_in(data))
                replaced += found
                chapters.append(text_of_page(text))
            except (KeyError, Undecodable, TooMuch, zipfile.BadZipFile, OSError, EOFError) as error:
                yield file.fault(f"chapter {name} cannot be read: {first_line(error)}")
            except Exception as error:  # zlib.error, NotImplementedError, RuntimeError: from damaged input
                yield file.fault(f"chapter {name} cannot be read: {error.__class__.__name__}: {first_line(error)}")
    yield file.document("\n\n".join(filter(None, chapters)), replaced)


def member(book: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a member of a ZIP file; raise TooMuch for more than `most` bytes."""
    with book.open(name) as member:
        data = member.read(most + 1)
    if len(data) > most:
        raise TooMuch("the book is longer than max_document_mb")
    return data


def _spine(book: zipfile.ZipFile, most: int) -> list[str]:
    """Return the file names of the chapters in reading order."""
    container = ElementTree.fromstring(member(book, "META-INF/container.xml", most))
    place = container.find(".//{*}rootfile")
    if place is None or "full-path" not in place.attrib:
        raise Undecodable("META-INF/container.xml names no package")
    path = place.attrib["full-path"]
    package = ElementTree.fromstring(member(book, path, most))
    files = {item.get("id"): item.get("href", "") for item in package.iterfind(".//{*}manifest/{*}item")}
    order = [
        files[item.get("idref")] for item in package.iterfind(".//{*}spine/{*}itemref") if item.get("idref") in files
    ]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(href))) for href in order]


def read_pdf(file: File) -> Iterator[Document | Fault]:
    """Yield the text of a PDF's pages, separated by empty lines; an unreadable page is a fault.

    A scan has no text and goes to quarantine; OCR is not supported.
    """
    import pypdf

    pages: list[str] = []
    length = 0
    with seekable(file.stream, SPOOLED * file.longest) as stream:
        book = pypdf.PdfReader(cast(Any, stream), strict=False)
        count = len(book.pages)
        file.next()
        for number in range(count):
            try:
                pages.append(book.pages[number].extract_text().strip())
                length += len(pages[-1])
            except Exception as error:  # of many kinds, from damaged input
                yield file.fault(f"page {number + 1} cannot be read: {error.__class__.__name__}: {first_line(error)}")
            if length > file.longest:
                raise TooMuch(f"longer than {file.longest / MEGABYTE:g} MB (max_document_mb)")
    yield file.document("\n\n".join(filter(None, pages)))
