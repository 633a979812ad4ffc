"""Plain text: one document per file, or documents between separators."""

from collections.abc import Iterator

from homegrown.corpus.encodings import decode_utf8
from homegrown.corpus.readers.file import File
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import read_all, separated


def read(file: File) -> Iterator[Document | Fault]:
    """Yield the file's text, or with a `separator` each nonempty part; raise TooMuch or Undecodable."""
    if file.source.separator:
        yield from _parts(file, file.source.separator.encode())
    else:
        text, replaced = file.decode(read_all(file.stream, file.longest))
        file.next()
        yield file.document(text, replaced)


def _parts(file: File, separator: bytes) -> Iterator[Document | Fault]:
    """Yield the parts that start in bytes `start` to `stop`; positions count from the piece's first part."""
    piece = file.piece
    stream = file.utf8()
    mark = stream.tell() if piece.stop and not piece.start else 0  # a byte order mark has been read
    if piece.start:
        stream.seek(max(0, piece.start - len(separator)))
    for place, part in separated(stream, separator, file.longest, piece.start):
        offset = place + mark
        if piece.stop is not None and offset >= piece.stop:
            return
        if part is None:
            file.next()
            yield file.fault(f"longer than {file.longest / MEGABYTE:g} MB (max_document_mb), from byte {offset} on")
        elif part.strip():
            file.next()
            yield file.document(*decode_utf8(part))
