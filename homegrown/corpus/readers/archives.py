"""Zip and tar archives: their members one after the other, with limits on decompressed bytes."""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias, cast

from homegrown.corpus.readers.file import File
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import Bounded, Stream, buffered, first_line, most_unpacked, seekable

_SPOOLED = 4_000 * MEGABYTE  # of a zip inside another archive


class Skipped(str):
    """Why a member is not read."""


Member: TypeAlias = "tuple[str, int, Stream | str]"  # name, size in bytes, and its bytes or what is wrong


def zip_members(file: File) -> Iterator[Member]:
    """Yield the files of a zip in its own order; raise zipfile.BadZipFile."""
    with seekable(file.stream, _SPOOLED) as stream, zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                yield member.filename, 0, Skipped("a link")
                continue
            if member.file_size > most_unpacked(member.compress_size):
                yield member.filename, 0, "it would decompress to hundreds of times its size"
                continue
            try:
                with archive.open(member) as data:
                    bounded = Bounded(data, member.file_size, "the member is longer than the archive says")
                    yield member.filename, member.file_size, buffered(bounded)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged, encrypted, exotic
                yield member.filename, 0, first_line(error)


def tar_members(file: File) -> Iterator[Member]:
    """Yield the files of a tar in its own order; raise tarfile.TarError."""
    with tarfile.open(fileobj=file.stream, mode="r|") as archive:
        for member in archive:
            data = archive.extractfile(member) if member.isfile() else None
            if member.islnk() or member.issym():
                yield member.name, 0, Skipped(f"a link to {member.linkname}")
            elif not member.isfile() and not member.isdir():
                yield member.name, 0, Skipped("not a regular file")
            if data and member.issparse():
                yield member.name, 0, "a sparse file, which may decompress to any size"
            elif data:
                yield member.name, member.size, buffered(cast(BinaryIO, data))
            cast(Any, archive).members = []  # tarfile would keep them all
