"""Sources of text: their files in order, and the identity of their content."""

import errno
import glob
import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.config.corpus import AnySource, FilesSource, IngestSettings, PackagesSource
from homegrown.corpus import hub, packages, remote
from homegrown.corpus.encodings import codec_of
from homegrown.corpus.readers.formats import FORMATS, SOURCE_TREES, check_installed, form, is_hidden, not_text, unread
from homegrown.corpus.records import Piece, last_change
from homegrown.corpus.streams import is_remote
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Found:
    """The files of a source in the order of their locators, and why others are not read, by locator."""

    files: list[Piece]
    skipped: dict[str, str]


def content(settings: IngestSettings, digests: Digests) -> dict[str, str]:
    """Return a SHA-256 of the identity of each source's content by name.

    The identity is the SHA-256 of local files and the standard library, that of the file system for remote files
    (`homegrown.corpus.remote.identity`), the digests in RECORD for distributions, and the commit of a hub dataset (the
    revision as set if the hub does not answer). Raises UserError for missing paths and those without readable files.
    """
    return {source.name: digest(source, digests) for source in settings.sources}


def digest(source: AnySource, digests: Digests) -> str:
    """Return a SHA-256 of the identity of a source's content, as in `content`."""
    return digest_of(identity(source, digests))


def digest_of(identity: Any) -> str:
    """Return the SHA-256 of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def identity(source: AnySource, digests: Digests) -> Any:
    """Return what identifies the content of a source; of files, pairs of locator and SHA-256 or remote identity."""
    if isinstance(source, FilesSource):
        return [
            (
                piece.locator,
                remote.identity(piece.address) if is_remote(piece.address) else digests.file(Path(piece.address)),
            )
            for piece in find_files(source).files
        ]
    if isinstance(source, PackagesSource):
        library = [(piece.locator, digests.file(Path(piece.address))) for piece in packages.library()]
        return {"library": library, "installed": packages.identity(digests, source.constraints)}
    folder = hub.local_folder(source)
    if folder:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            source.config,
            source.split,
            [(path.relative_to(folder).as_posix(), digests.file(path)) for path in files],
        ]
    return [source.dataset, source.config, source.split, hub.commit(source)]


def find(source: AnySource) -> Found:
    """Return the files of a source of any kind in reading order; raise UserError."""
    if isinstance(source, FilesSource):
        return find_files(source)
    if isinstance(source, PackagesSource):
        missing = packages.deviations(source.constraints).missing if source.constraints else ()
        return Found(packages.modules(source.constraints), dict.fromkeys(missing, "not installed"))
    return Found(hub.pieces(source), {})


_once: ContextVar[dict[FilesSource, Found] | None] = ContextVar("once", default=None)


@contextmanager
def finding_once() -> Iterator[None]:
    """Make `find_files` look for the files of a source once within the block, for commands that only plan."""
    known = _once.get()
    token = _once.set({} if known is None else known)
    try:
        yield
    finally:
        _once.reset(token)


def find_files(source: FilesSource) -> Found:
    """Return the files of a path, folder, glob or address.

    Files whose names end in none of the supported formats are read if their first bytes are text. Hidden files and
    folders, installed packages and generated files are skipped, links to folders followed once. A locator is relative
    to the folder, or to the part of a glob without wildcards. Raises UserError if no file is readable, or a library
    for one of them is missing.
    """
    known = _once.get()
    if known is None:
        return _find_files(source)
    if source not in known:
        known[source] = _find_files(source)
    return known[source]


def _find_files(source: FilesSource) -> Found:
    if source.encoding and codec_of(source.encoding) is None:
        raise UserError(
            f"Source {source.name}: encoding {source.encoding!r} is unknown; use a name such as shift_jis or cp1251."
        )
    skipped: dict[str, str] = {}
    local = remote.local_path(source.path)
    if local is None:
        pieces = remote.find(source.path, f"Source {source.name}")
    else:
        pieces = _find_here(source, Path(local).expanduser(), skipped)
    skipped |= {one.locator: "its name is not UTF-8; rename it" for one in pieces if _shown(one.locator) != one.locator}
    pieces = [one for one in pieces if one.locator not in skipped]
    is_named = Path(local).expanduser().is_file() if local else [source.path] == [one.address for one in pieces]
    if not is_named:
        skipped |= {piece.locator: reason for piece in pieces if (reason := unread(piece.locator))}
    others = [piece for piece in pieces if piece.locator not in skipped and not form(piece.locator)[0]]
    skipped |= {piece.locator: reason for piece in others if (reason := not_text(piece))}
    readable = sorted((one for one in pieces if one.locator not in skipped), key=lambda piece: piece.locator)
    if not readable:
        raise UserError(_nothing(source, skipped))
    check_installed((piece.locator for piece in readable), source)
    return Found(readable, {_shown(locator): reason for locator, reason in sorted(skipped.items())})


def _nothing(source: FilesSource, skipped: dict[str, str]) -> str:
    """Return the message for a source without files to read; it names one of those that are skipped."""
    example = next((f"{_shown(locator)} ({reason})" for locator, reason in sorted(skipped.items())), "")
    found = f"; skipped: {example}" + (f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else "") if example else ""
    return (
        f"Source {source.name}: {source.path} has no file in a supported format, and no other text{found}. The formats "
        f"are {', '.join(FORMATS)}; convert others."
    )


def _shown(locator: str) -> str:
    """Return a locator as valid Unicode: bytes of a name that are not UTF-8 become question marks."""
    return locator if locator.isascii() else locator.encode(errors="replace").decode()


def _find_here(source: FilesSource, path: Path, skipped: dict[str, str]) -> list[Piece]:
    """Return the files; add why others are not read, by locator."""
    if path.is_dir():
        return list(_walk(path, skipped))
    if path.is_file():
        found = {path.name: path}
    elif glob.has_magic(str(path)):
        root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        matches = (one for one in root.glob(path.relative_to(root).as_posix()) if not one.is_dir())
        found = {one.relative_to(root).as_posix(): one for one in matches}
        skipped |= {locator: "hidden" for locator in found if is_hidden(locator)}
    else:
        raise UserError(f"Source {source.name}: no file or folder {source.path}.")
    pieces = (
        _piece(os.path.realpath(one), locator, one.stat, skipped)
        for locator, one in found.items()
        if locator not in skipped
    )
    return [piece for piece in pieces if piece]


def _piece(
    address: str, locator: str, status_of: Callable[[], os.stat_result], skipped: dict[str, str]
) -> Piece | None:
    """Return a file that is read; add why another one is not."""
    try:
        status = status_of()
    except OSError as error:
        is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        skipped[locator] = "a link to nothing" if is_gone else f"cannot be opened: {error.strerror}"
        return None
    if not stat.S_ISREG(status.st_mode):  # a device never ends
        skipped[locator] = "not a regular file"
        return None
    return Piece(address, locator, size=status.st_size, changed=last_change(status))


def _walk(root: Path, skipped: dict[str, str]) -> Iterator[Piece]:
    """Yield the files below a folder; add why others are not read.

    Folders come before links to them, each in the order of names, so that a folder is read once and by its own name.
    """
    seen: set[str] = set()
    links = deque([(os.path.realpath(root), "")])  # a folder, and the start of its locators
    while links:
        waiting = [links.popleft()]
        while waiting:
            folder, start = waiting.pop()
            try:
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                skipped[start[:-1] or "."] = f"cannot be opened: {error.strerror}"
                continue
            if folder in seen:
                skipped[start[:-1]] = "a link to a folder that is read by another name"
                continue
            seen.add(folder)
            is_hidden_folder = is_hidden(start)
            folders = []
            for entry in entries:
                locator, address = start + entry.name, entry.path
                if _is_folder(entry):
                    if entry.name.startswith("."):
                        skipped[locator] = "hidden"
                    elif entry.name.lower() in SOURCE_TREES:
                        skipped[locator] = "installed or generated"
                    elif entry.is_symlink():
                        links.append((os.path.realpath(address), f"{locator}/"))
                    else:
                        folders.append((address, f"{locator}/"))
                elif is_hidden_folder or is_hidden(entry.name):
                    skipped[locator] = "hidden"
                else:
                    address = os.path.realpath(address) if entry.is_symlink() else address
                    if piece := _piece(address, locator, entry.stat, skipped):
                        yield piece
            waiting += reversed(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a folder that cannot be searched
        return False
