"""Sources of text: their files in order, and the identity of their content."""

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.config.recipe import AnySource, FilesSource, IngestSettings, PackagesSource
from homegrown.corpus import hub, packages, remote
from homegrown.corpus.encodings import codec_of
from homegrown.corpus.readers.formats import FORMATS, check_installed, form
from homegrown.corpus.records import Piece
from homegrown.corpus.streams import is_remote
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Found:
    """The files of a source in the order of their locators, and the number of unsupported files."""

    files: list[Piece]
    skipped: int


def content(settings: IngestSettings, digests: Digests) -> dict[str, str]:
    """Return a SHA-256 of the identity of each source's content by name.

    The identity is the SHA-256 of local files and the standard library, that of the file system for remote files
    (`homegrown.corpus.remote.identity`), the digests in RECORD for distributions, and the commit of a hub dataset (the
    revision as set if the hub does not answer). Raises UserError for missing paths and those without readable files.
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
    """Return the files of a source of any kind in reading order; raise UserError."""
    if isinstance(source, FilesSource):
        return find_files(source)
    return Found(packages.modules() if isinstance(source, PackagesSource) else hub.pieces(source), 0)


def find_files(source: FilesSource) -> Found:
    """Return the files of a path, folder, glob or address.

    Hidden files and folders are ignored. A locator is relative to the folder, or to the part of a glob without
    wildcards. Raises UserError if no file is readable, or a library for one of them is missing.
    """
    if source.encoding and codec_of(source.encoding) is None:
        raise UserError(
            f"Source {source.name}: encoding {source.encoding!r} is unknown; use a name such as shift_jis or cp1251."
        )
    local = remote.local_path(source.path)
    if local is None:
        pieces = remote.find(source.path, f"Source {source.name}")
    else:
        pieces = _find_here(source, Path(local).expanduser())
    readable = sorted((piece for piece in pieces if form(piece.locator)), key=lambda piece: piece.locator)
    if not readable:
        raise UserError(
            f"Source {source.name}: {source.path} has no file in a supported format ({', '.join(FORMATS)})."
        )
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
        raise UserError(f"Source {source.name}: no file or folder {source.path}.")
    return [
        Piece(str(found.resolve()), found.relative_to(root).as_posix(), size=found.stat().st_size)
        for found in paths
        if found.is_file()  # not a broken link or a device, which never ends
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
