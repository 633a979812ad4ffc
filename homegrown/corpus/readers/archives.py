"""Zip and tar archives: their members one after the other, with limits on decompressed bytes."""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar, Self, TypeAlias, cast

from homegrown.corpus.readers.file import File
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import Bounded, Stream, buffered, first_line, most_unpacked, seekable

_HEADER_ERROR: type[Exception] = cast(Any, tarfile).HeaderError
_SPOOLED = 4_000 * MEGABYTE  # of a zip inside another archive


class Incomplete(Exception):
    """Part of an archive could not be read; the message is the reason."""


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


class _Heads(tarfile.TarInfo):
    """The heads of a tar, with a note of what is wrong with them: tarfile passes over it."""

    intact: ClassVar[int]
    damaged: ClassVar[int]
    has_end: ClassVar[bool]

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next head."""
        try:
            found = super().fromtarfile(tarfile)
        except _HEADER_ERROR as error:
            kind = type(error).__name__
            cls.has_end = cls.has_end or kind == "EOFHeaderError"
            cls.damaged += kind in ("InvalidHeaderError", "TruncatedHeaderError")
            raise
        cls.intact += 1
        cls.has_end = False
        return found


def tar_members(file: File) -> Iterator[Member]:
    """Yield the files of a tar, or of several joined ones, in its own order; raise tarfile.TarError.

    Blocks that are not the head of a member are passed over, up to the next head or the end. Raises Incomplete at the
    end for these and for a missing end mark.
    """

    class Heads(_Heads):
        """Those of this archive."""

        intact, damaged, has_end = 0, 0, False

    with tarfile.open(fileobj=file.stream, mode="r|", tarinfo=Heads, ignore_zeros=True) as archive:
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
    if Heads.damaged and not Heads.intact:
        raise Incomplete("it is not a tar")
    if Heads.damaged:
        raise Incomplete(f"{Heads.damaged} blocks of 512 bytes belong to no member: a head is damaged")
    if not Heads.has_end:
        raise Incomplete("the archive ends without an end mark: it may be cut")
