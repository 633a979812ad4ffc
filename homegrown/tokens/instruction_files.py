"""Files of instruction data: found, opened and read one JSON value at a time, each with its place."""

import glob
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import ijson
import orjson
import zstandard

from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import (
    COMPRESSIONS,
    Bounded,
    Stream,
    TooMuch,
    first_line,
    lines,
    opened,
    pushed_back,
    unpacked,
)
from homegrown.errors import UserError

ENDINGS = tuple(f"{ending}{packed}" for ending in (".jsonl", ".json") for packed in ("", *COMPRESSIONS))
"""Of the files that are read where a folder or a glob is named."""

LONGEST = 10 * MEGABYTE
"""Most bytes of one conversation as JSON: it bounds memory."""

_BOM = b"\xef\xbb\xbf"
_UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def find(named: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and globs stand for, in their order, those of each sorted, none twice.

    Hidden files and folders are left out.

    Raises:
        UserError: there is no such file, or none in a folder.
    """
    found: dict[Path, None] = {}
    for name in named:
        here = _here(name)
        if not here:
            raise UserError(f"instructions.files: {name} holds no file that ends in {', '.join(ENDINGS)}.")
        found.update(dict.fromkeys(here))
    return list(found)


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
        raise UserError(f"instructions.files: there is no file or folder {name}.")
    readable = [file for file in inside if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".")]
    return sorted(file for file in readable if file.is_file())


def place(path: Path, position: int) -> str:
    """Return how a message names the place of a record."""
    return f"{path}, line {position}"


def read(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a file with the lines they are on, from 1; of one array, its items with their number.

    Raises:
        UserError: the file cannot be read or unpacked, a line is not JSON in UTF-8, or is longer than `LONGEST`.
    """
    packed = next((ending for ending in COMPRESSIONS if path.name.lower().endswith(ending)), "")
    position = 0
    try:
        with opened(str(path)) as file, unpacked(file, packed) as stream:
            for position, value in _values(path, _without_mark(stream)):
                yield position, value
    except _UNPACKING as error:
        where = f"after line {position}" if position else "at all"
        raise UserError(f"{path} cannot be read {where} ({first_line(error)}); restore the file.") from error


def _without_mark(stream: Stream) -> Stream:
    head = stream.read(len(_BOM))
    return pushed_back(head.removeprefix(_BOM), stream)


def _values(path: Path, stream: Stream) -> Iterator[tuple[int, Any]]:
    """Yield what `read` does; a file whose first character other than white space is a bracket is one array."""
    skipped = 0
    for _, line in lines(stream, LONGEST):
        if line is None or not line.isspace():
            break
        skipped += 1
    else:
        return
    if line is not None and line.lstrip().startswith(b"["):
        yield from _items(path, pushed_back(line, stream))
        return
    yield skipped + 1, _value(path, skipped + 1, line)
    for position, (_, line) in enumerate(lines(stream, LONGEST), start=skipped + 2):
        if line is None or not line.isspace():
            yield position, _value(path, position, line)


def _value(path: Path, position: int, line: bytes | None) -> Any:
    where = place(path, position)
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


def _items(path: Path, stream: Stream) -> Iterator[tuple[int, Any]]:
    position = 0
    bounded = Bounded(stream, LONGEST, "")
    try:
        for position, item in enumerate(ijson.items(cast(Any, bounded), "item", use_float=True), start=1):
            bounded.renew()
            yield position, item
    except TooMuch:
        raise UserError(f"{path}, item {position + 1}: it is longer than {LONGEST / MEGABYTE:.0f} MB.") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}, item {position + 1}: it is not JSON in UTF-8 ({reason}); mend the file.") from None
