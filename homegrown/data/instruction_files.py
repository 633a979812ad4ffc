"""Files of instruction data, here or at an address: found, opened and read one JSON value at a time, with its place."""

import glob
import json
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlsplit

import ijson
import orjson
import zstandard

from homegrown.corpus import remote
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import (
    COMPRESSIONS,
    Bounded,
    Stream,
    TooMuch,
    Unreachable,
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
"""Of the files that are read where a folder or a glob is named."""

LONGEST = 10 * MEGABYTE
"""Most bytes of one conversation as JSON: it bounds memory."""

_SETTING = "instructions.files"
_HEAD = 65_536  # bytes in which something other than white space is looked for
_BOM = b"\xef\xbb\xbf"
_UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def find(named: Sequence[str]) -> list[str]:
    """Return the files that paths, folders, globs and addresses of such stand for, as paths or addresses.

    They are in the order of what is named, those of each sorted, none twice. Hidden files and folders are left out.

    Raises:
        UserError: there is no such file, or none in a folder; a file system does not answer.
    """
    found: dict[str, None] = {}
    for name in named:
        local = remote.local_path(name)
        files = _there(name) if local is None else [str(path) for path in _here(local)]
        if not files:
            raise UserError(f"{_SETTING}: {name} holds no file that ends in {', '.join(ENDINGS)}.")
        found.update(dict.fromkeys(files))
    return list(found)


def identity(file: str, digests: Digests) -> str:
    """Return what stands for the bytes of a file that `find` has found.

    The SHA-256 of a file of this machine; of one elsewhere, a text of what its file system says of it
    (`homegrown.corpus.remote.identity`). Raises UserError when that does not answer.
    """
    return json.dumps(remote.identity(file)) if is_remote(file) else digests.file(Path(file))


def _there(name: str) -> list[str]:
    pieces = remote.find(name, _SETTING)
    # A file that is named itself counts whatever it ends in, as one of this machine.
    readable = [one for one in pieces if one.locator.lower().endswith(ENDINGS) or name.endswith(f"/{one.locator}")]
    return sorted(one.address for one in readable)


def _here(name: str) -> list[Path]:
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
        raise UserError(f"{_SETTING}: there is no file or folder {name}.")
    readable = [file for file in inside if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".")]
    return sorted(file for file in readable if file.is_file())


class Record(NamedTuple):
    """A JSON value and where it is: on a line of a file, or as an item of the array that the file is, from 1."""

    path: str
    unit: Literal["line", "item"]
    position: int
    value: Any

    @property
    def place(self) -> str:
        """How a message names the place."""
        return f"{self.path}, {self.unit} {self.position}"


def read(path: str) -> Iterator[Record]:
    """Yield the JSON values of the file at a path or address, one on each line that is not blank, or of one array.

    Raises:
        UserError: the file cannot be read or unpacked, a line is not JSON in UTF-8, or is longer than `LONGEST`.
    """
    packed = next((ending for ending in COMPRESSIONS if _name(path).endswith(ending)), "")
    position = 0
    try:
        with opened(path) as file, unpacked(file, packed) as stream:
            for record in _records(path, stream):
                position = record.position
                yield record
    except Unreachable as error:
        raise UserError(f"{error}; run again when it answers.") from error
    except _UNPACKING as error:
        raise UserError(
            f"{path} cannot be read after line {position} ({first_line(error)}); restore the file."
        ) from error


def _name(path: str) -> str:
    """Return what a path or address ends in, in lower case, without the query of a web address."""
    name = path.lower()
    return urlsplit(name).path if name.startswith(("http:", "https:")) else name


def _records(path: str, stream: Stream) -> Iterator[Record]:
    """Yield what `read` does; a file whose first character other than white space is a bracket is one array."""
    head = stream.read(_HEAD).removeprefix(_BOM)
    stream = pushed_back(head, stream)
    if head.lstrip().startswith(b"["):
        yield from _items(path, stream)
        return
    for position, (_, line) in enumerate(lines(stream, LONGEST), start=1):
        if line is None or not line.isspace():
            yield Record(path, "line", position, _value(f"{path}, line {position}", line))


def _value(where: str, line: bytes | None) -> Any:
    if line is None:
        raise UserError(f"{where}: it is longer than {LONGEST / MEGABYTE:.0f} MB; split the conversation or remove it.")
    if b"\0" in line:
        raise UserError(f"{where}: it holds binary data; name files of JSON lines.")
    try:
        return orjson.loads(line.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: it is not UTF-8 from byte {error.start + 1} on; save the file as UTF-8.") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{where}: it is not JSON ({error.msg}, column {error.colno}); mend or remove it.") from None


def _items(path: str, stream: Stream) -> Iterator[Record]:
    position = 0
    bounded = Bounded(stream, LONGEST, "")
    try:
        for position, item in enumerate(ijson.items(cast(Any, bounded), "item", use_float=True), start=1):
            bounded.renew()
            yield Record(path, "item", position, item)
    except TooMuch:
        raise UserError(f"{path}, item {position + 1}: it is longer than {LONGEST / MEGABYTE:.0f} MB.") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}, item {position + 1}: it is not JSON in UTF-8 ({reason}); mend the file.") from None
