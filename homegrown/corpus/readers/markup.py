"""SGML and XML: the text of elements, by the lenient parser of the standard library, since few files are valid."""

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from homegrown.corpus.encodings import Undecodable, decode_utf8
from homegrown.corpus.readers.file import File
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import BUFFER, Stream, check_end

_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_DECLARATIONS = ((_CDATA, _CDATA_END), ("<!--", "-->"), ("<!", ">"), ("<?", ">"))
_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
HEAD = 1024  # bytes in which the HTML standard looks for a page's encoding
_BLANK = re.compile(r"(?<![ \t])[ \t]*\n\s*\n")  # from the first space, or the search would restart at each one
_SPACES = re.compile(r"\s+")
_INLINE = frozenset("a abbr b cite code em font i kbd mark q s small span strong sub sup tt u var wbr".split())  # noqa: SIM905
_UNSEEN = frozenset({"script", "style", "title"})


def declared_in(data: bytes) -> str | None:
    """Return the encoding that a page or an XML file declares."""
    found = _DECLARED.search(data[:HEAD])
    return found[1].decode() if found else None


class _Text(HTMLParser):
    """Collects text, with a line break at each block element; separately for `wanted` elements."""

    def __init__(self, wanted: str = "", unseen: frozenset[str] = frozenset(), *, folds: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        if not folds:  # HTML names have no meaning in other markup
            self.CDATA_CONTENT_ELEMENTS = self.RCDATA_CONTENT_ELEMENTS = ()  # type: ignore[misc]
        self._wanted, self._unseen, self._folds = wanted, unseen, folds
        self._inside = self._hidden = self._kept = 0
        self._all: list[str] = []
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter an element."""
        self._inside += tag == self._wanted
        self._hidden += tag in self._unseen
        self._kept += tag == "pre"
        if tag not in _INLINE:
            self._take("\n\n" if self._folds and tag in ("p", "h1", "h2", "h3", "h4", "pre", "table", "ul") else "\n")

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        if tag not in _INLINE:
            self._take("\n")
        self._inside = max(0, self._inside - (tag == self._wanted))
        self._hidden = max(0, self._hidden - (tag in self._unseen))
        self._kept = max(0, self._kept - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        """Add text."""
        if not self._hidden:
            self._take(_SPACES.sub(" ", data) if self._folds and not self._kept else data)

    def _take(self, text: str) -> None:
        self._all.append(text)
        if self._inside:
            self._within.append(text)

    def text(self) -> str:
        """Return the text in wanted elements, or all text without such elements."""
        return _BLANK.sub("\n\n", "".join(self._within or self._all)).strip()


def text_of_page(page: str) -> str:
    """Return all visible text of an HTML page, a line per block, with white space folded outside <pre>."""
    return _parsed(_Text(unseen=_UNSEEN, folds=True), page)


def _parsed(parser: _Text, markup: str) -> str:
    try:
        parser.feed(_without_unclosed(_without_cdata(markup)))
        parser.close()
    except AssertionError as error:  # the parser's error for an invalid declaration
        raise Undecodable(f"malformed markup: {error}") from None
    return parser.text()


def _without_cdata(markup: str) -> str:
    """Return markup with its CDATA sections as plain text; in linear time, even if many start and none ends."""
    parts, place = [], 0
    while (start := markup.find(_CDATA, place)) >= 0 and (end := markup.find(_CDATA_END, start)) >= 0:
        parts += [markup[place:start], html.escape(markup[start + len(_CDATA) : end])]
        place = end + len(_CDATA_END)
    return "".join([*parts, markup[place:]])


def _without_unclosed(markup: str) -> str:
    """Return markup with declarations that never end as text.

    Python's parser treats them as text too, but before 3.11.14 it searches for each end through all that follows.
    """
    for opening, closing in _DECLARATIONS:
        end = markup.rfind(closing) + len(closing) if closing in markup else 0
        if markup.find(opening, end) >= 0:
            markup = markup[:end] + markup[end:].replace(opening, html.escape(opening))
    return markup


def read(file: File) -> Iterator[Document | Fault]:
    """Yield the text of each `document_element`, or of the file without such elements.

    A document with elements named `text_column` (such as TREC's <TEXT>) consists of their text alone. Names are not
    case-sensitive.
    """
    stream = file.utf8(declared_in(file.stream.peek(HEAD)))
    for offset, data in _documents(stream, file.source.document_element.encode(), file.longest):
        file.next()
        if isinstance(data, str):
            yield file.fault(f"{data}, from byte {offset} on")
            continue
        try:
            text, replaced = decode_utf8(data)
            yield file.document(_parsed(_Text(file.source.text_column.lower()), text), replaced)
        except Undecodable as error:
            yield file.fault(str(error))


def _documents(stream: Stream, element: bytes, longest: int) -> Iterator[tuple[int, bytes | str]]:
    """Yield offset and bytes of each element with its tags, or of the stream without one, or what is wrong."""
    opening = re.compile(rb"<" + re.escape(element) + rb"(?=[\s>])", re.IGNORECASE)
    closing = re.compile(rb"</" + re.escape(element) + rb"\s*>", re.IGNORECASE)
    margin = len(element) + 64  # a tag may span two reads
    too_long = f"longer than {longest / MEGABYTE:g} MB (max_document_mb)"
    buffer, base = b"", 0  # buffered bytes, and the offset of the first one
    begin = scanned = origin = 0  # in the buffer: start of the document, start of the search; its offset
    inside = found = lost = ended = False
    while True:
        match = (closing if inside else opening).search(buffer, scanned)
        if match and inside:
            yield origin, too_long if lost or match.end() - begin > longest else buffer[begin : match.end()]
            begin, scanned, inside = match.end(), match.end(), False
        elif match:
            begin, scanned, origin = match.start(), match.end(), base + match.start()
            inside, found, lost = True, True, False
        elif ended:
            if inside:
                check_end(stream)
            if inside or not found:
                reason = too_long if lost or len(buffer) - begin > longest else ""
                reason = reason or (f"<{element.decode()}> is not closed" if inside else "")
                yield origin, reason or buffer[begin:]
            return
        else:
            scanned = max(scanned, len(buffer) - margin)
            lost = lost or len(buffer) - begin > longest
            kept = scanned if lost or (found and not inside) else begin
            chunk = stream.read(BUFFER)
            ended = not chunk
            buffer, base = buffer[kept:] + chunk, base + kept
            begin, scanned = 0, scanned - kept
