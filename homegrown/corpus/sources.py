"""Sources of text: their files in order, and the identity of their content."""

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.config.corpus import AnySource, FilesSource, IngestSettings, PackagesSource
from homegrown.corpus import hub, packages, remote
from homegrown.corpus.encodings import codec_of
from homegrown.corpus.readers.formats import FORMATS, check_installed, form, is_hidden, unread
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


def find_files(source: FilesSource) -> Found:
    """Return the files of a path, folder, glob or address.

    Hidden files and folders are skipped, links to folders followed once. A locator is relative to the folder, or to
    the part of a glob without wildcards. Raises UserError if no file is readable, or a library for one of them is
    missing.
    """
    if source.encoding and codec_of(source.encoding) is None:
        raise UserError(
            f"Source {source.name}: encoding {source.encoding!r} is unknown; use a name such as shift_jis or cp1251."
        )
    skipped: dict[str, str] = {}
    local = remote.local_path(source.path)
    if local is None:
        pieces = remote.find(source.path, f"Source {source.name}")
        hidden = [one for one in pieces if is_hidden(one.locator) and not source.path.endswith(f"/{one.locator}")]
        skipped |= {one.locator: "hidden" for one in hidden}
        pieces = [one for one in pieces if one.locator not in skipped]
    else:
        pieces = _find_here(source, Path(local).expanduser(), skipped)
    readable = sorted((piece for piece in pieces if form(piece.locator)), key=lambda piece: piece.locator)
    skipped |= {piece.locator: unread(piece.locator) for piece in pieces if not form(piece.locator)}
    if not readable:
        raise UserError(
            f"Source {source.name}: {source.path} has no file in a supported format ({', '.join(FORMATS)})."
        )
    check_installed((piece.locator for piece in readable), source)
    return Found(readable, dict(sorted(skipped.items())))


def _find_here(source: FilesSource, path: Path, skipped: dict[str, str]) -> list[Piece]:
    """Return the files; add why others are not read, by locator."""
    if path.is_file():
        root, paths = path.parent, [path]
    elif path.is_dir():
        root, paths = path, _walk(path, skipped)
    elif glob.has_magic(str(path)):
        root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        paths = [found for found in root.glob(path.relative_to(root).as_posix()) if not found.is_dir()]
    else:
        raise UserError(f"Source {source.name}: no file or folder {source.path}.")
    pieces = []
    for found in paths:
        locator = found.relative_to(root).as_posix()
        if is_hidden(locator) and path != found:
            skipped[locator] = "hidden"
        elif found.is_file():
            status = found.stat()
            pieces.append(Piece(str(found.resolve()), locator, size=status.st_size, changed=last_change(status)))
        else:  # a device never ends
            skipped[locator] = "a link to nothing" if found.is_symlink() else "not a regular file"
    return pieces


def _walk(root: Path, skipped: dict[str, str]) -> list[Path]:
    """Return the files below a folder; add why others are not read.

    Folders come before links to them, each in the order of names, so that a folder is read once and by its own name.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    waiting = [root]

    def note(error: OSError) -> None:
        skipped[Path(error.filename).relative_to(root).as_posix()] = f"cannot be opened: {error.strerror}"

    while waiting:
        for folder, folders, names in os.walk(waiting.pop(0), onerror=note):
            if Path(folder).resolve() in seen:
                skipped[Path(folder).relative_to(root).as_posix()] = "a link to a folder that is read by another name"
                folders.clear()
                continue
            seen.add(Path(folder).resolve())
            paths = [Path(folder, name) for name in sorted(folders)]
            skipped |= {path.relative_to(root).as_posix(): "hidden" for path in paths if path.name.startswith(".")}
            visible = [path for path in paths if not path.name.startswith(".")]
            folders[:] = [path.name for path in visible if not path.is_symlink()]
            waiting += [path for path in visible if path.is_symlink()]
            found += [Path(folder, name) for name in names]
    return found
