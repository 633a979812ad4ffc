"""Finding and reading files of conversations, local or remote, one JSON value at a time."""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlsplit

import ijson
import orjson

from homegrown.corpus import remote
from homegrown.corpus.compression import COMPRESSIONS
from homegrown.corpus.readers.formats import is_hidden
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import (
    Bounded,
    Stream,
    TooMuch,
    Unreachable,
    check_end,
    first_line,
    is_remote,
    lines,
    opened,
    pushed_back,
    unpacked,
)
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError

ENDINGS = tuple(f"{ending}{packed}" for ending in (".jsonl", ".json") for packed in ("", *COMPRESSIONS))
"""File name endings that a folder or glob is searched for."""

LONGEST = 10 * MEGABYTE
"""Maximum bytes of one conversation as JSON; bounds memory."""

_HEAD = 65_536  # bytes searched for the first character other than white space
_BOM = b"\xef\xbb\xbf"


def find(named: Sequence[str], setting: str = "instructions.files") -> list[str]:
    """Return the files that paths, folders, globs and addresses refer to, as paths or addresses.

    They keep the order of `named`; those of each are sorted; none occurs twice. Hidden files and folders are skipped.
    `setting` names them in error messages.

    Raises:
        UserError: a file is not found, a folder has none, or a file system does not answer.
    """
    found: dict[str, None] = {}
    for name in named:
        local = remote.local_path(name)
        files = _there(name, setting) if local is None else [str(path) for path in _here(local, setting)]
        if not files:
            raise UserError(f"{setting}: {name} has no file that ends in {', '.join(ENDINGS)}.")
        found.update(dict.fromkeys(files))
    return list(found)


def identity(file: str, digests: Digests) -> str:
    """Return the identity of the content of a file that `find` returned.

    That is the SHA-256 of a local file, or the metadata of a remote one as JSON (`homegrown.corpus.remote.identity`).
    Raises UserError if its file system does not answer.
    """
    return json.dumps(remote.identity(file)) if is_remote(file) else digests.file(Path(file))


def _there(name: str, setting: str) -> list[str]:
    pieces = remote.find(name, setting)
    # A file named by itself counts whatever its ending, as a local one does.
    visible = [one for one in pieces if not is_hidden(one.locator) and one.locator.lower().endswith(ENDINGS)]
    named = [one for one in pieces if name.endswith(f"/{one.locator}")]
    return sorted({one.address for one in visible + named})


def _here(name: str, setting: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [
            Path(folder, file)
            for folder, folders, files in os.walk(path)
            if not any(part.startswith(".") for part in Path(folder).relative_to(path).parts)
            for file in files
        ]
    elif glob.has_magic(name):
        root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        inside = list(root.glob(path.relative_to(root).as_posix()))
    else:
        raise UserError(f"{setting}: {name} is not found; name an existing file, folder or glob.")
    readable = [file for file in inside if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".")]
    return sorted(file for file in readable if file.is_file())


class Record(NamedTuple):
    """A JSON value and its position in a file: a line, or an item of the array, from 1."""

    path: str
    unit: Literal["line", "item"]
    position: int
    value: Any
    problem: str | None = None
    """Why the value is missing, in words that follow the place."""

    @property
    def place(self) -> str:
        """The position as error messages name it."""
        return f"{self.path}, {self.unit} {self.position}"


def read(path: str) -> Iterator[Record]:
    """Yield the JSON values of a file: one per line that is not blank, or the items of one array.

    A line that is not JSON in UTF-8, or longer than `LONGEST`, is a record with a problem.

    Raises:
        UserError: the file cannot be read or unpacked, or an item of an array is not JSON, or too long.
    """
    packed = next((ending for ending in COMPRESSIONS if _name(path).endswith(ending)), "")
    position = 0
    try:
        with opened(path) as file, unpacked(file, packed) as stream:
            for record in _records(path, stream):
                position = record.position
                yield record
            check_end(stream)
    except Unreachable as error:
        raise UserError(f"{error}; run again when it answers.") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read after line {position} ({first_line(error)}); restore the file."
        ) from error


def _name(path: str) -> str:
    """Return a path or address in lower case, without the query of a web address."""
    name = path.lower()
    return urlsplit(name).path if name.startswith(("http:", "https:")) else name


def _records(path: str, stream: Stream) -> Iterator[Record]:
    """Yield the records of a file; one that starts with a bracket is an array."""
    head = stream.read(_HEAD).removeprefix(_BOM)
    stream = pushed_back(head, stream)
    if head.lstrip().startswith(b"["):
        yield from _items(path, stream)
        return
    for position, (_, line) in enumerate(lines(stream, LONGEST), start=1):
        if line is None or not line.isspace():
            value, problem = _value(line)
            yield Record(path, "line", position, value, problem)


def _value(line: bytes | None) -> tuple[Any, str | None]:
    """Return the value of a line, and what prevents it."""
    if line is None:
        return None, f"is longer than {LONGEST / MEGABYTE:.0f} MB"
    if b"\0" in line:
        return None, "is binary data instead of JSON"
    try:
        return orjson.loads(line.decode()), None
    except UnicodeDecodeError as error:
        return None, f"is invalid UTF-8 at byte {error.start + 1}"
    except orjson.JSONDecodeError as error:
        return None, f"is invalid JSON ({error.msg}, column {error.colno})"


def _items(path: str, stream: Stream) -> Iterator[Record]:
    position = 0
    bounded = Bounded(stream, LONGEST, "")
    try:
        for position, item in enumerate(ijson.items(cast(Any, bounded), "item", use_float=True), start=1):
            bounded.renew()
            yield Record(path, "item", position, item)
    except TooMuch:
        raise UserError(
            f"{path}, item {position + 1}: longer than {LONGEST / MEGABYTE:.0f} MB; split or remove it."
        ) from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}, item {position + 1}: invalid JSON or UTF-8 ({reason}); fix the file.") from None
