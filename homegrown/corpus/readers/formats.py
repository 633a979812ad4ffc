"""The formats of files, by name or else plain text by content, and their readers."""

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from homegrown.config.corpus import FilesSource
from homegrown.corpus.compression import COMPRESSIONS, Damaged
from homegrown.corpus.encodings import Undecodable, is_utf8
from homegrown.corpus.readers import archives, books, delimited, markup, objects, office, plain, prose, tables, web
from homegrown.corpus.readers.archives import Skipped
from homegrown.corpus.readers.file import File
from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.streams import (
    Bounded,
    Stream,
    TooMuch,
    Unreachable,
    buffered,
    check_end,
    first_line,
    most_unpacked,
    opened,
    unpacked,
)
from homegrown.util.errors import UserError

Reader = Callable[[File], Iterator[Document | Fault]]


def _read_xml(file: File) -> Iterator[Document | Fault]:
    """Yield the documents of XML, which may be a dump of MediaWiki."""
    return prose.read_wiki(file) if prose.is_wiki(file.stream.peek(1024)[:1024]) else markup.read(file)


PLAIN = (".txt", ".md", ".rst", "")
"""Formats of plain text; "" is that of a name with any other ending, such as main.py, whose content decides."""
READERS: dict[str, Reader] = {
    "": plain.read,
    ".txt": plain.read,
    ".md": plain.read,
    ".rst": plain.read,
    ".jsonl": objects.read_lines,
    ".ndjson": objects.read_lines,
    ".json": objects.read,
    ".csv": delimited.read_csv,
    ".tsv": delimited.read_tsv,
    ".parquet": tables.read_parquet,
    ".arrow": tables.read_arrow,
    ".feather": tables.read_arrow,
    ".html": web.read_html,
    ".htm": web.read_html,
    ".xhtml": web.read_html,
    ".xht": web.read_html,
    ".xml": _read_xml,
    ".sgml": markup.read,
    ".sgm": markup.read,
    ".warc": web.read_warc,
    ".wet": web.read_warc,
    ".arc": web.read_warc,
    ".epub": books.read_epub,
    ".pdf": books.read_pdf,
    ".docx": office.read_docx,
    ".odt": office.read_odt,
    ".ipynb": prose.read_notebook,
    ".tex": prose.read_tex,
    ".eml": prose.read_mail,
    ".mbox": prose.read_mailbox,
    ".srt": prose.read_subtitles,
    ".vtt": prose.read_subtitles,
}
_MEMBERS = {".zip": archives.zip_members, ".tar": archives.tar_members}
FORMATS = (*filter(None, READERS), *_MEMBERS)

SOURCE_TREES = frozenset({"node_modules", "bower_components", "site-packages", "__pycache__"})
"""Folders of other people's packages and of caches, which are passed over."""
_VENDORED = frozenset({"vendor", "third_party", "third-party"})
"""Folders whose source code is other people's; a person may keep documents in one of such a name."""
_LOCK_FILES = frozenset({"package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "go.sum"})
_GENERATED = {
    ".lock": "a lock file",
    ".min.js": "minified",
    ".min.mjs": "minified",
    ".min.css": "minified",
    ".js.map": "a source map",
    ".css.map": "a source map",
    ".svg": "a drawing",
}
"""Why text of a name with such an ending is not read: nobody wrote it to be read."""
_STARTS = {
    b"%PDF-": "a PDF; name it .pdf",
    b"{\\rtf": "rich text; save it as .docx or .txt",
    b"%!PS": "PostScript",
    b"-----BEGIN ": "a key or a certificate",
}
"""Why text of another ending is not read, by its first bytes."""
_LOOKED_AT = 8192
"""First bytes that decide whether a file is text, as in git."""

_PAGES = frozenset({".html", ".htm", ".xhtml", ".xht"})
_LIBRARIES = {
    ".pdf": ("pypdf",),
    ".docx": ("mammoth",),
    ".tex": ("pylatexenc",),
    ".srt": ("pysubs2",),
    ".vtt": ("pysubs2",),
}
_EMPTY = "contains no document"
_UNPACKS_ITSELF = frozenset({".warc", ".wet", ".arc"})  # each record is a gzip of its own, which allows skipping damage


def form(name: str) -> tuple[str, str]:
    """Return the format and compression (empty: none) of a file by the suffixes of its name; "" is text by content."""
    name = name.lower()
    ending = _ending(name)
    if ending == ".tgz":
        return ".tar", ".gz"
    compression = ending if ending in COMPRESSIONS else ""
    ending = _ending(name.removesuffix(compression))
    return (ending if ending in READERS or ending in _MEMBERS else "", compression)


def _ending(name: str) -> str:
    """Return the last dot of a name and what follows."""
    place = name.rfind(".")
    return name[place:] if place >= 0 else ""


def unread(locator: str) -> str:
    """Return why a file is not read, by its name; empty for one that may be."""
    *folders, name = locator.lower().split("/")
    if is_hidden(locator):
        return "hidden"
    if not SOURCE_TREES.isdisjoint(folders):
        return "installed or generated"
    if name in _LOCK_FILES:
        return "a lock file"
    generated = next((reason for ending, reason in _GENERATED.items() if name.endswith(ending)), "")
    if not generated and not form(name)[0] and not _VENDORED.isdisjoint(folders):
        return "other people's source code"
    return generated


def not_text(piece: Piece) -> str:
    """Return why a file whose name does not tell its format is not read, by its content; empty if it is text."""
    _, compression = form(piece.locator)
    try:
        with opened(piece.address) as stream:
            return _not_text(piece.locator, unpacked(stream, compression))
    except OSError as error:
        return f"cannot be opened: {error.strerror or first_line(error)}"
    except Unreachable:  # its reader reports it
        return ""


def _not_text(name: str, stream: Stream) -> str:
    """Return why a file is not plain text, by the first bytes of its stream, which stay in it; empty if it is."""
    start = stream.peek(_LOOKED_AT)[:_LOOKED_AT]
    if not start:
        return "empty"
    if known := next((reason for mark, reason in _STARTS.items() if start.startswith(mark)), ""):
        return known
    try:
        is_utf8(start, None)
    except Undecodable:
        return _unsupported(name)
    return ""


def _unsupported(name: str) -> str:
    return f"{PurePosixPath(name).suffix or 'no ending'}: not a supported format"


def check_installed(names: Iterable[str], source: FilesSource) -> None:
    """Raise UserError if a library for one of the files is missing."""
    for ending in sorted({form(name)[0] for name in names}):
        for library in _libraries(ending, source):
            if importlib.util.find_spec(library) is None:
                raise UserError(_missing(source, ending, library))


def _libraries(ending: str, source: FilesSource) -> tuple[str, ...]:
    if ending in _PAGES:
        return (source.html_extractor,)
    if ending in _UNPACKS_ITSELF:
        return (source.html_extractor,)
    return _LIBRARIES.get(ending, ())


def _missing(source: FilesSource, ending: str, library: str | None) -> str:
    return (
        f"Source {source.name}: {ending} files need {library}, which is not installed; run: "
        "pip install 'homegrown[formats]'."
    )


def read(piece: Piece, source: FilesSource, longest: int, tally: Tally) -> Iterator[Document | Fault]:
    """Yield the records of a file, or of a part of one; `longest` limits a document in bytes.

    A damaged file yields the records before the damage, then a fault. So does a file that yields hundreds of times its
    size: rows of a table may share a text. Raises UserError if a library is missing or a remote file system does not
    answer; a new run then resumes.
    """
    left = most_unpacked(piece.size) if piece.size else math.inf
    is_empty = piece.stop is None
    try:
        with opened(piece.address) as stream:
            for record in _read(File(piece, stream, source, longest, tally), ""):
                left -= len(record.text) + len(record.url) if isinstance(record, Document) else 0
                if left < 0:
                    yield Fault(record.path, record.position, "yields hundreds of times its size")
                    return
                yield record
                is_empty = False
        if is_empty and not tally.skipped:
            yield Fault(piece.locator, 0, _EMPTY)
    except OSError as error:
        yield Fault(piece.locator, 0, f"cannot be opened: {first_line(error)}")
    except Unreachable as error:
        raise UserError(f"Source {source.name}: {error}; run again to resume.") from error


def _read(file: File, archive: str) -> Iterator[Document | Fault]:
    """Yield the records of a file; `archive` is the format of its archive, empty for none."""
    ending, compression = form(file.piece.locator)
    try:
        if compression and (ending not in _UNPACKS_ITSELF or compression != ".gz"):
            most, reason = most_unpacked(file.piece.size), "decompresses to hundreds of times its size"
            stream = buffered(Bounded(unpacked(file.stream, compression), most, reason))
            file = replace(file, stream=stream, is_decompressed=True)
        if ending in READERS:
            yield from READERS[ending](file)
        else:
            yield from _read_members(file, ending, archive)
        if file.is_decompressed:
            check_end(file.stream)
    except (UserError, Unreachable):
        raise
    except ImportError as error:
        raise UserError(_missing(file.source, ending, error.name)) from error
    except (Undecodable, TooMuch) as error:
        yield file.fault(str(error))
    except Exception as error:  # libraries raise errors of their own, or any, for damaged input
        yield Fault(file.piece.locator, file.tally.lines + 1, _reason(file, error))


def _reason(file: File, error: Exception) -> str:
    """Return why a file cannot be read from here on: damage of its compressed data explains any error of its reader."""
    if file.is_decompressed:
        try:
            check_end(file.stream)
        except Damaged as damage:
            return str(damage)
        except (OSError, ValueError, TooMuch):  # closed, or too long
            pass
    if isinstance(error, archives.Incomplete):
        return str(error)
    return f"cannot be read from here on: {first_line(error)} ({error.__class__.__name__})"


def _read_members(file: File, ending: str, archive: str) -> Iterator[Document | Fault]:
    """Yield the records of the members of an archive, and of archives in it, but no deeper."""
    for name, size, member in _MEMBERS[ending](file):
        locator = f"{file.piece.locator}/{name}"
        found, compression = form(name)
        if isinstance(member, Skipped):
            file.tally.skip(locator, member)
        elif reason := unread(name):
            file.tally.skip(locator, reason)
        elif isinstance(member, str):
            yield Fault(locator, 0, member)
        elif not found and (reason := _unsupported(name) if compression else _not_text(name, member)):
            file.tally.skip(locator, reason)
        elif found in _MEMBERS and archive:
            yield Fault(locator, 0, "archives are opened at most two levels deep")
        else:
            inner = Tally()
            is_empty = True
            for record in _read(
                replace(file, piece=Piece(locator, locator, size=size), stream=member, tally=inner), ending
            ):
                is_empty = False
                yield record
            if is_empty and not inner.skipped:
                yield Fault(locator, 0, _EMPTY)
            file.tally.include(inner)


def is_hidden(name: str) -> bool:
    """Return whether a member is a hidden file or a resource file of macOS."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith((".", "__MACOSX")) for part in parts)
