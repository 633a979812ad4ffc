"""Documents of word processors: Word (.docx) and OpenDocument (.odt), as prose without comments and deleted text."""

import io
import re
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from homegrown.corpus.readers.books import SPOOLED, member
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.markup import text_of_page
from homegrown.corpus.records import Document, Fault
from homegrown.corpus.streams import TooMuch, read_all, seekable

# In mammoth's HTML: the number of a note in the text, and the arrow from the note back to it.
_NOTE_MARKS = re.compile(
    r'<sup><a href="#[^"]*note-[^"]*"[^>]*>[^<]*</a></sup>|<a href="#[^"]*note-ref-[^"]*">[^<]*</a>'
)
_CELL_END = re.compile(r"(?:</p>)?</t[dh]>\s*<t[dh][^>]*>(?:<p>)?")
_PICTURE = re.compile(r"<img [^>]*>")


def read_docx(file: File) -> Iterator[Document | Fault]:
    """Yield a Word document: insertions are kept, deletions and comments are not, notes are at the end."""
    import mammoth

    data = io.BytesIO(read_all(file.stream, SPOOLED * file.longest))  # mammoth takes the name of a file for a path
    with zipfile.ZipFile(data) as parts:  # it reads its parts without a limit
        if sum(part.file_size for part in parts.infolist() if part.filename.endswith(".xml")) > SPOOLED * file.longest:
            raise TooMuch("the document is longer than max_document_mb")
    page = mammoth.convert_to_html(data, convert_image=lambda _: []).value
    file.next()
    page = _CELL_END.sub(" | ", _NOTE_MARKS.sub("", _PICTURE.sub("", page)))
    yield _found(file, text_of_page(page))


def read_odt(file: File) -> Iterator[Document | Fault]:
    """Yield an OpenDocument text (OASIS ODF 1.3, part 3, chapter 5): deletions and comments are left out."""
    with seekable(file.stream, SPOOLED * file.longest) as stream, zipfile.ZipFile(stream) as parts:
        content = ElementTree.fromstring(member(parts, "content.xml", SPOOLED * file.longest))
    file.next()
    body = content.find(".//{*}body/{*}text")
    yield _found(file, "" if body is None else "\n".join(_blocks(body)).strip())


def _found(file: File, text: str) -> Document | Fault:
    return file.document(text) if text else file.fault("no text")


_BLOCKS = frozenset({"p", "h"})
_LEFT_OUT = frozenset(
    {"tracked-changes", "annotation", "annotation-end", "note-citation", "title", "desc", "table-of-content"}
)


def _blocks(element: ElementTree.Element) -> Iterator[str]:
    """Yield headings, paragraphs and rows of tables below an element, in order; notes follow their paragraph."""
    for child in element:
        name = _name(child)
        if name in _BLOCKS:
            yield _inline(child) + ("\n" if name == "h" or _name(element) == "text" else "")
            for note in child.iterfind(".//{*}note-body"):
                yield from _blocks(note)
        elif name == "table-row":
            yield " | ".join(" ".join(_blocks(cell)).strip() for cell in child if _name(cell) == "table-cell")
        elif name not in _LEFT_OUT:
            yield from _blocks(child)


def _inline(element: ElementTree.Element) -> str:
    """Return the text of a paragraph, where white space folds and `s`, `tab` and `line-break` are elements."""
    parts = [_folded(element.text)]
    for child in element:
        name = _name(child)
        if name == "s":
            count = next((value for key, value in child.attrib.items() if key.endswith("}c")), "1")
            parts.append(" " * (int(count) if count.isdigit() else 1))
        elif name in ("tab", "line-break"):
            parts.append("\t" if name == "tab" else "\n")
        elif name not in _LEFT_OUT and name != "note":
            parts.append(_inline(child))
        parts.append(_folded(child.tail))
    return "".join(parts)


def _folded(text: str | None) -> str:
    return re.sub(r"[ \t\r\n]+", " ", text or "")


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
