"""The formats that are read, told by a file's name, and the reader of each."""

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from homegrown.config.recipe import FilesSource
from homegrown.corpus.readers import archives, books, markup, objects, plain, tables, web
from homegrown.corpus.readers.file import File
from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.streams import (
    COMPRESSIONS,
    Bounded,
    TooMuch,
    Unreachable,
    buffered,
    first_line,
    most_unpacked,
    opened,
    unpacked,
)
from homegrown.corpus.text import Undecodable
from homegrown.util.errors import UserError

Reader = Callable[[File], Iterator[Document | Fault]]

READERS: dict[str, Reader] = {
    ".txt": plain.read,
    ".md": plain.read,
    ".rst": plain.read,
    ".jsonl": objects.read_lines,
    ".ndjson": objects.read_lines,
    ".json": objects.read,
    ".csv": tables.read_csv,
    ".tsv": tables.read_tsv,
    ".parquet": tables.read_parquet,
    ".arrow": tables.read_arrow,
    ".feather": tables.read_arrow,
    ".html": web.read_html,
    ".htm": web.read_html,
    ".xml": markup.read,
    ".sgml": markup.read,
    ".sgm": markup.read,
    ".warc": web.read_warc,
    ".wet": web.read_warc,
    ".arc": web.read_warc,
    ".epub": books.read_epub,
    ".pdf": books.read_pdf,
}
_MEMBERS = {".zip": archives.zip_members, ".tar": archives.tar_members}
FORMATS = (*READERS, *_MEMBERS)

_UNPACKS_ITSELF = frozenset({".warc", ".wet", ".arc"})  # each record is a gzip of its own, by which damage is passed


def form(name: str) -> tuple[str, str] | None:
    """Return a file's format and compression (empty: none) by its name's endings; None when it cannot be read."""
    name = name.lower()
    if name.endswith(".tgz"):
        return ".tar", ".gz"
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    name = name.removesuffix(compression)
    found = next((ending for ending in FORMATS if name.endswith(ending)), None)
    return None if found is None else (found, compression)


def check_installed(names: Iterable[str], source: FilesSource) -> None:
    """Raise UserError when a library is missing that one of the files needs."""
    for ending in sorted({found[0] for name in names if (found := form(name))}):
        for library in _libraries(ending, source):
            if importlib.util.find_spec(library) is None:
                raise UserError(_missing(source, ending, library))


def _libraries(ending: str, source: FilesSource) -> tuple[str, ...]:
    if ending in (".html", ".htm"):
        return (source.html_extractor,)
    if ending in _UNPACKS_ITSELF:
        return ("fastwarc", "warcio", source.html_extractor)
    return ("pypdf",) if ending == ".pdf" else ()


def _missing(source: FilesSource, ending: str, library: str | None) -> str:
    return (
        f"Source {source.name}: {ending} files need {library}, which is not installed; run: "
        "pip install 'homegrown[formats]'."
    )


def read(piece: Piece, source: FilesSource, longest: int, tally: Tally) -> Iterator[Document | Fault]:
    """Yield what is in a file, or in a part of one; `longest` bounds a document in bytes.

    A damaged file yields what was read before the damage, then a fault, and so does one that gives hundreds of times
    its size: rows of a table may all stand for the same text. Raises UserError when a library is missing or a remote
    file system does not answer: nothing is lost by running again.
    """
    left = most_unpacked(piece.size) if piece.size else math.inf
    try:
        with opened(piece.address) as stream:
            for record in _read(File(piece, stream, source, longest, tally), ""):
                left -= len(record.text) if isinstance(record, Document) else 0
                if left < 0:
                    yield Fault(record.path, record.position, "gives hundreds of times its size")
                    return
                yield record
    except OSError as error:
        yield Fault(piece.locator, 0, f"cannot be opened: {first_line(error)}")
    except Unreachable as error:
        raise UserError(f"Source {source.name}: {error}; run again to go on from here.") from error


def _read(file: File, archive: str) -> Iterator[Document | Fault]:
    """Yield what is in a file; `archive` is the format of the one that it lies in, empty for none."""
    ending, compression = form(file.piece.locator) or ("", "")
    try:
        if compression and ending not in _UNPACKS_ITSELF:
            most, reason = most_unpacked(file.piece.size), "unpacks to hundreds of times its size"
            file = replace(file, stream=buffered(Bounded(unpacked(file.stream, compression), most, reason)))
        if ending in READERS:
            yield from READERS[ending](file)
        else:
            yield from _read_members(file, ending, archive)
    except (UserError, Unreachable):
        raise
    except ImportError as error:
        raise UserError(_missing(file.source, ending, error.name)) from error
    except (Undecodable, TooMuch) as error:
        yield file.fault(str(error))
    except Exception as error:  # each format's library has errors of its own for damaged input, and some have any
        reason = f"cannot be read from here on: {first_line(error)} ({error.__class__.__name__})"
        yield Fault(file.piece.locator, file.tally.lines + 1, reason)


def _read_members(file: File, ending: str, archive: str) -> Iterator[Document | Fault]:
    """Yield what is in the members of an archive, and in those of an archive in it, but no deeper."""
    for name, size, member in _MEMBERS[ending](file):
        locator = f"{file.piece.locator}/{name}"
        found = form(name)
        if found is None or _is_hidden(name):
            file.tally.skipped += 1
        elif isinstance(member, str):
            yield Fault(locator, 0, member)
        elif found[0] in _MEMBERS and archive:
            yield Fault(locator, 0, "an archive in an archive in an archive is not opened")
        else:
            inner = Tally()
            yield from _read(
                replace(file, piece=Piece(locator, locator, size=size), stream=member, tally=inner), ending
            )
            file.tally.include(inner)


def _is_hidden(name: str) -> bool:
    """Whether a member is a hidden file or one of those that macOS puts beside each file."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith((".", "__MACOSX")) for part in parts)
