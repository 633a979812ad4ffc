"""Files at a remote store that this machine has no copy of: a hidden note beside their place tells where they are.

Workers without access to the artifacts folder write to the store, and read from it; the machine that runs the stage has
the notes. Readers here take a part of such a file, without a copy.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

BY_RANGE = frozenset({".arrow", ".signatures", ".shingles", ".starts"})
"""Suffixes of scratch files of which a task reads a part: a worker gets a note of them instead of a copy."""

_ENDING = ".there"
_MANIFEST = "manifest.json"
_GAP = 65_536  # bytes between two ranges that one request reads


class There(NamedTuple):
    """Where a file is: the address of the store, the name in it, its size, and its SHA-256 if it was taken."""

    store: str
    name: str
    bytes: int
    sha256: str


def filesystem(address: str) -> tuple[Any, str]:
    """Return the file system of an address of fsspec, and the path in it."""
    from fsspec.core import url_to_fs

    local = urlsplit(address).scheme in ("", "file", "local")
    # No cached listings: another machine may have written since.
    options = {"auto_mkdir": True} if local else {"use_listings_cache": False}
    files, root = url_to_fs(address, **options)
    return files, root.rstrip("/")


def note(path: Path, there: There) -> None:
    """Note where a file is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = _note_of(path)
    temporary = own.with_name(f"{own.name}.tmp")
    temporary.write_text(json.dumps(there))
    temporary.replace(own)


def noted(path: Path) -> There | None:
    """Return where a file is; None without a note."""
    try:
        return There(*json.loads(_note_of(path).read_text()))
    except OSError:
        return None


def forget(path: Path) -> None:
    """Delete the note of a file."""
    _note_of(path).unlink(missing_ok=True)


def files_below(folder: Path) -> dict[str, There]:
    """Return the noted files below a folder, by their path relative to it."""
    notes = (path for path in folder.rglob(f".*{_ENDING}") if path.name != _ENDING)
    paths = (path.with_name(path.name[1 : -len(_ENDING)]) for path in notes)
    return {path.relative_to(folder).as_posix(): there for path in paths if (there := noted(path))}


def parts_of(folder: Path, pattern: str = "*.parquet") -> list[Path]:
    """Return the paths of a table's files in order: those here, those noted, and those in an artifact's manifest."""
    found = {path.name for path in folder.glob(pattern) if not path.name.startswith(".")}
    found |= {path.name[1 : -len(_ENDING)] for path in folder.glob(f".{pattern}{_ENDING}")}
    if (folder.parent / _ENDING).is_file():
        names = map(Path, json.loads((folder.parent / _MANIFEST).read_bytes())["files"])
        found |= {name.name for name in names if str(name.parent) == folder.name and name.match(pattern)}
    return [folder / name for name in sorted(found)]


def opened(path: Path) -> Path | BinaryIO:
    """Return the path of a file that is here, or a stream that reads parts of it at the store."""
    if path.exists() or not (there := noted(path) or _published(path)):
        return path
    files, root = filesystem(there.store)
    return cast("BinaryIO", files.open(f"{root}/{there.name}", "rb", cache_type="none"))


def address_of(path: Path) -> str:
    """Return the path of a file that is here, or its address at the store."""
    if path.exists() or not (there := noted(path) or _published(path)):
        return str(path)
    return f"{there.store.rstrip('/')}/{there.name}"


def is_elsewhere(folder: Path) -> bool:
    """Return whether an artifact's folder has a manifest whose files are at a store."""
    return (folder / _ENDING).is_file()


def note_store(folder: Path, address: str) -> None:
    """Note the store that has the files of an artifact's folder, which has only the manifest."""
    (folder / _ENDING).write_text(address)


def _published(path: Path) -> There | None:
    """Return where a file of a published artifact is, by its manifest and the note of the store."""
    for folder in path.parents[:2]:
        if (folder / _ENDING).is_file():
            facts = json.loads((folder / _MANIFEST).read_bytes())["files"].get(path.relative_to(folder).as_posix())
            name = path.relative_to(folder.parents[1]).as_posix()
            return facts and There((folder / _ENDING).read_text(), name, facts["bytes"], facts["sha256"])
    return None


def ranges(path: Path, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    """Return the joined bytes of ascending ranges of a noted file; near ones are read by one request."""
    place = noted(path)
    if place is None:
        raise FileNotFoundError(f"{path} is neither here nor at a store.")
    files, root = filesystem(place.store)
    own = np.flatnonzero(ends > begins)
    begins, ends = begins[own], ends[own]
    firsts = np.flatnonzero(np.concatenate([[True], begins[1:] > ends[:-1] + _GAP])[: len(own)])
    lasts = np.append(firsts[1:], len(own)) - 1
    starts, stops = begins[firsts].tolist(), ends[lasts].tolist()
    blocks = files.cat_ranges([f"{root}/{place.name}"] * len(firsts), starts, stops, on_error="raise")
    numbers = np.searchsorted(firsts, np.arange(len(own)), side="right") - 1
    spans = zip(numbers.tolist(), begins.tolist(), ends.tolist(), strict=True)
    return b"".join(blocks[block][begin - starts[block] : end - starts[block]] for block, begin, end in spans)


def _note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{_ENDING}")
