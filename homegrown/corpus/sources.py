"""Sources of text: which files they consist of, in what order, and what identifies their content."""

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.config.recipe import AnySource, FilesSource, IngestSettings, PackagesSource
from homegrown.corpus import hub, packages, remote
from homegrown.corpus.readers.formats import FORMATS, check_installed, form
from homegrown.corpus.records import Piece
from homegrown.corpus.streams import is_remote
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Found:
    """The files of a source in the order of their locators, and how many others lie beside them."""

    files: list[Piece]
    skipped: int


def content(settings: IngestSettings, digests: Digests) -> dict[str, str]:
    """Return, by the source's name, a SHA-256 over what identifies the content of each source.

    Files and the standard library enter by the SHA-256 of their bytes, remote files by what their file system says of
    them (`homegrown.corpus.remote.identity`), distributions by the digests in their RECORD, a hub dataset by its commit
    (as given when the hub does not answer).
    Raises UserError for paths that are missing or hold nothing readable.
    """
    return {source.name: _digest_of(_identity(source, digests)) for source in settings.sources}


def _digest_of(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _identity(source: AnySource, digests: Digests) -> Any:
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
        return {"library": library, "installed": packages.identity(digests)}
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
    """Return what a source of any kind consists of, in the order in which it is read; raise UserError."""
    if isinstance(source, FilesSource):
        return find_files(source)
    return Found(packages.modules() if isinstance(source, PackagesSource) else hub.pieces(source), 0)


def find_files(source: FilesSource) -> Found:
    """Return the files that a path, folder, glob or address stands for.

    Hidden files and folders are left out. A locator is relative to the folder, or to what of a glob has no wildcard.
    Raises UserError when none is readable, and when a library is missing that one of them needs.
    """
    local = remote.local_path(source.path)
    if local is None:
        pieces = remote.find(source.path, f"Source {source.name}")
    else:
        pieces = _find_here(source, Path(local).expanduser())
    readable = sorted((piece for piece in pieces if form(piece.locator)), key=lambda piece: piece.locator)
    if not readable:
        raise UserError(f"Source {source.name}: {source.path} holds no file that can be read ({', '.join(FORMATS)}).")
    check_installed((piece.locator for piece in readable), source)
    return Found(readable, len(pieces) - len(readable))


def _find_here(source: FilesSource, path: Path) -> list[Piece]:
    if path.is_file():
        root, paths = path.parent, [path]
    elif path.is_dir():
        root, paths = path, _walk(path)
    elif glob.has_magic(str(path)):
        root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        paths = [found for found in root.glob(path.relative_to(root).as_posix()) if _is_visible_file(found, root)]
    else:
        raise UserError(f"Source {source.name}: there is no file or folder {source.path}.")
    return [
        Piece(str(found.resolve()), found.relative_to(root).as_posix(), size=found.stat().st_size)
        for found in paths
        if found.is_file()  # not so for a link to nowhere, or to a device, which never ends
    ]


def _is_visible_file(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.is_file() and not hidden


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return found
