"""WARC, WET and ARC archives (ISO 28500; Burner and Kahle 1996), record by record: damage costs the records it is in.

fastwarc and warcio hide a cut record, and stop or go astray at one whose head or encoding is wrong.
"""

import re
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import zstandard

from homegrown.corpus.compression import Damaged, Decompressed
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import BUFFER, Bounded, Stream, buffered, first_line, most_unpacked

PAGES = frozenset({"text/html", "application/xhtml+xml"})

_WANTED = frozenset({"response", "conversion", "resource"})
_WARC = re.compile(rb"WARC/\d\.\d+\s*\Z")
_ARC = re.compile(rb"([a-z][a-z0-9+.-]*:\S*) \S+ \d{8,14} (\S+) (?:.* )?(\d+)\s*\Z", re.IGNORECASE)
_INNER = re.compile(rb"\nWARC/\d\.\d+\r?\n")  # a head in the block of another record, whose length is wrong
_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")  # the start of a member of gzip
_CHECKSUM = re.compile(r"incorrect (data|length) check")  # zlib's messages: any byte of the member may be wrong
_STATUS = re.compile(rb"HTTP/\S+ (\d+)")
_CHUNK = re.compile(rb"\s*([0-9a-fA-F]{1,15})[^\n]*\n")
_LONGEST_LINE, _MOST_LINES = 65_536, 1000  # of a head
_MOST_TRIES = 1000  # starts of members without a record, one after the other
_CUT = "the record ends after {} of {} bytes"
_NO_HEAD = "the record's head is damaged"
_WRONG_LENGTH = "the record's length is wrong"


@dataclass(frozen=True)
class Page:
    """A page or plain text of an archive: its address ("": none), media type, encoding if known, and bytes."""

    url: str
    kind: str
    charset: str | None
    data: bytes


@dataclass(frozen=True)
class Wrong:
    """Why a record cannot be read."""

    reason: str


@dataclass(frozen=True)
class Other:
    """Why a record is not read: it is neither a page nor plain text, or not a success."""

    reason: str


@dataclass(frozen=True)
class _Head:
    kind: str  # of the record
    media: str
    length: int | None
    url: str = ""


@dataclass
class _Source:
    """A stream to which bytes can be given back, and which ends at damage."""

    stream: Stream
    damage: Damaged | None = None
    _ahead: bytes = field(default=b"", init=False)

    def line(self) -> bytes:
        """Return the next line or a part of it, empty at the end."""
        if not self._ahead:
            return self._until_damage(lambda: self.stream.readline(_LONGEST_LINE))
        end = self._ahead.find(b"\n", 0, _LONGEST_LINE) + 1
        if not end and len(self._ahead) < _LONGEST_LINE:
            left = _LONGEST_LINE - len(self._ahead)
            self._ahead += self._until_damage(lambda: self.stream.readline(left))
            end = len(self._ahead)
        return self.read(end or _LONGEST_LINE)

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end."""
        found, self._ahead = self._ahead[:size], self._ahead[size:]
        left = size - len(found)
        return found + self._until_damage(lambda: self.stream.read(left)) if left else found

    def _until_damage(self, read: Callable[[], bytes]) -> bytes:
        try:
            return b"" if self.damage else read()
        except Damaged as error:
            self.damage = error
            return b""

    def skip(self, size: int) -> int:
        """Skip `size` bytes; return how many there were."""
        left = size
        while left and (chunk := self.read(min(left, BUFFER))):
            left -= len(chunk)
        return size - left

    def give_back(self, data: bytes) -> None:
        """Return these bytes next."""
        self._ahead = data + self._ahead


def records(stream: Stream, size: int, longest: int) -> Iterator[Page | Wrong | Other]:
    """Yield the responses, conversions and resources of a seekable archive of `size` bytes, compressed or not.

    Where compressed data is damaged, reading goes on at the next member of gzip.
    """
    start, tries = 0, 0
    is_packed = stream.peek(2)[:2] == b"\x1f\x8b"
    while tries < _MOST_TRIES:
        raw: Decompressed | None = None
        part = stream
        if is_packed:
            stream.seek(start)
            raw = Decompressed(stream, ".gz")
            most, reason = most_unpacked(size), "decompresses to hundreds of times its size"
            part = buffered(Bounded(buffered(raw), most, reason))
        is_reported = tries > 0
        source = _Source(part)
        last: Page | Wrong | Other | None = None  # until its member's checksum is known
        for record in _blocks(source, longest):
            if last:
                yield last
            last = None
            if isinstance(record, Wrong):
                last = record if tries == 0 else None
                is_reported = True
            else:
                tries, is_reported = 0, False
                last = _interpreted(*record, longest)
        source.read(1)
        if source.damage and not is_reported:
            if last and not _CHECKSUM.search(str(source.damage)):
                yield last
            yield Wrong(str(source.damage))
        elif last:
            yield last
        if raw is None or raw.invalid_member is None:
            return
        tries += 1
        next_start = _next_member(stream, start + raw.invalid_member + 1)
        if next_start is None:
            return
        start = next_start


def _next_member(stream: Stream, start: int) -> int | None:
    """Return where the next member of gzip may start."""
    stream.seek(start)
    before = b""
    while chunk := stream.read(BUFFER):
        found = _MEMBER.search(before + chunk)
        if found:
            return start - len(before) + found.start()
        start += len(chunk)
        before = (before + chunk)[-3:]
    return None


def _blocks(source: _Source, longest: int) -> Generator[tuple[_Head, bytes] | Wrong, None, None]:
    """Yield head and block of each record; what is wrong once for each damage."""
    most = 2 * longest + BUFFER
    is_lost = False
    while line := source.line():
        if not line.strip():
            continue
        head = _head(source, line)
        if head is None or head.length is None:
            if not is_lost:
                yield Wrong(_NO_HEAD)
            is_lost = True
            continue
        is_lost = False
        block = source.read(min(head.length, most))
        length = len(block) + (source.skip(head.length - most) if head.length > most and len(block) == most else 0)
        following = source.line() if length == head.length else b""
        inner = _INNER.search(block) if length < head.length or not _is_border(following) else None
        if inner:
            source.give_back(block[inner.start() + 1 :] + following)
            yield Wrong(_WRONG_LENGTH)
        elif length < head.length:
            yield Wrong(_CUT.format(length, head.length))
        elif not _is_border(following):
            is_lost = True
            yield Wrong(_WRONG_LENGTH)
        else:
            if following.strip():
                source.give_back(following)
            yield head, block


def _is_border(line: bytes) -> bool:
    """Return whether a line can follow a record."""
    return not line.strip() or _WARC.match(line) is not None or _ARC.match(line) is not None


def _head(source: _Source, line: bytes) -> _Head | None:
    """Return the head that starts with a line; None if it is not one."""
    arc = _ARC.match(line)
    if arc:
        kind = "warcinfo" if line.startswith(b"filedesc:") else "response"
        return _Head(kind, arc[2].decode("latin-1"), int(arc[3]), arc[1].decode(errors="replace"))
    if not _WARC.match(line):
        return None
    lines: list[bytes] = []
    while (following := source.line()).strip():
        if _WARC.match(following) or len(lines) == _MOST_LINES:
            source.give_back(following)
            return _Head("", "", None)
        lines.append(following)
    fields = _fields(lines)
    length = fields.get("content-length", "")
    return _Head(
        fields.get("warc-type", "").lower(),
        fields.get("content-type", ""),
        int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None,
        fields.get("warc-target-uri", "").strip("<> "),
    )


def _fields(lines: list[bytes]) -> dict[str, str]:
    """Return the fields of a head by their names in small letters."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (b" ", b"\t") and name:  # goes on
            fields[name] += " " + line.decode("latin-1").strip()
        else:
            name, _, value = line.decode("latin-1").partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _interpreted(head: _Head, block: bytes, longest: int) -> Page | Wrong | Other | None:
    """Return a page or why it is not read; None for records that are not content, such as requests."""
    if head.kind not in _WANTED:
        return None
    media, body, encodings = head.media, block, ""
    if block.startswith(b"HTTP/"):
        heading, body = _split(block)
        status = _STATUS.match(block)
        if status and not status[1].startswith(b"2"):
            return Other(f"status {status[1].decode()}")
        fields = _fields(heading.splitlines()[1:])
        media = fields.get("content-type", "text/html")
        encodings = f"{fields.get('content-encoding', '')},{fields.get('transfer-encoding', '')}".lower()
    elif media.startswith("application/http"):
        return Wrong("the record has no HTTP head")
    kind = media.partition(";")[0].strip().lower()
    if kind not in PAGES and kind != "text/plain":
        return Other(f"{kind or 'no media type'}: neither a page nor plain text")
    if head.length is not None and head.length > 2 * longest:
        return Wrong(f"record of {head.length / MEGABYTE:.1f} MB, over max_document_mb")
    try:
        for encoding in reversed([part.strip() for part in encodings.split(",")]):
            body = _decoded(body, encoding, longest)
    except (zlib.error, zstandard.ZstdError, ValueError) as error:
        return Wrong(f"the page's {encoding} encoding is damaged: {first_line(error)}")
    if len(body) > longest:
        return Wrong(f"longer than {longest / MEGABYTE:g} MB (max_document_mb)")
    return Page(head.url, kind, _charset(media), body)


def _split(block: bytes) -> tuple[bytes, bytes]:
    """Return head and body of an HTTP response."""
    found = re.search(rb"\r?\n\r?\n", block)
    return (block[: found.start()], block[found.end() :]) if found else (block, b"")


def _decoded(body: bytes, encoding: str, longest: int) -> bytes:
    """Return a body without an encoding, at most a byte more than `longest`; raise ValueError or a library's error."""
    if encoding == "chunked":
        return _joined(body)
    if encoding in ("gzip", "x-gzip", "deflate"):
        is_raw = encoding == "deflate" and (len(body) < 2 or (body[0] & 15) != 8 or (body[0] * 256 + body[1]) % 31)
        packed = zlib.decompressobj(-15 if is_raw else 47)
        found = packed.decompress(body, longest + 1)
        if len(found) <= longest and not packed.eof:
            raise ValueError("it ends early")
        return found
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(body).read(longest + 1)
    if encoding in ("", "identity"):
        return body
    raise ValueError("it is not supported")


def _joined(body: bytes) -> bytes:
    """Return the data of chunks (RFC 9112, section 7.1)."""
    parts: list[bytes] = []
    place = 0
    while True:
        found = _CHUNK.match(body, place)
        if not found:
            raise ValueError("a chunk has no size")
        size = int(found[1], 16)
        if size == 0:
            return b"".join(parts)
        if found.end() + size > len(body):
            raise ValueError("a chunk ends early")
        parts.append(body[found.end() : found.end() + size])
        place = found.end() + size


def _charset(kind: str) -> str | None:
    """Return the charset of a Content-Type."""
    _, found, charset = kind.lower().partition("charset=")
    return charset.split(";")[0].strip("\"' ") if found else None
