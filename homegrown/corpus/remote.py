"""Files at fsspec addresses (s3://, https://, memory://): listing and identity.

Credentials and options are those of fsspec: its configuration files and environment variables.
"""

import glob
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from homegrown.corpus.records import Piece
from homegrown.corpus.streams import first_line, is_remote
from homegrown.util.errors import UserError

# Names of checksums of a file's bytes: S3 and HTTP, Google, Azure, the Hugging Face hub, WebDAV.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "crc32c", "content_settings", "content_md5", "blob_id", "sha256", "checksum")


def local_path(path: str) -> str | None:
    """Return the local path of an address (a plain path, file:// or local://), None for a remote one."""
    if not is_remote(path):
        return path
    scheme, _, rest = path.partition("://")
    return rest if scheme in ("file", "local") else None


def find(address: str, setting: str) -> list[Piece]:
    """Return the files of a remote file, folder or glob, with hidden ones.

    Raises UserError if no file is found or the file system does not answer; the message starts with the `setting`.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(address)
        if glob.has_magic(path):
            root = next(str(parent) for parent in PurePosixPath(path).parents if not glob.has_magic(str(parent)))
            found = {name: info for name, info in files.glob(path, detail=True).items() if info["type"] == "file"}
        elif files.isfile(path):
            root, found = files._parent(path), {path: files.info(path)}
        else:
            root, found = path, files.find(path, detail=True)
        pieces = [
            Piece(files.unstrip_protocol(name), _locator(name, root), size=info.get("size") or 0)
            for name, info in found.items()
        ]
    except Exception as error:  # of an HTTP, S3, ... client; ImportError names the package of the file system
        raise UserError(f"{setting}: {address} cannot be listed: {first_line(error)}.") from error
    if not pieces:
        raise UserError(f"{setting}: no file or folder {address}.")
    return pieces


def _locator(name: str, root: str) -> str:
    """Return a file's path below `root`, without the query of a web address."""
    path = urlsplit(name).path if is_remote(name) else name
    base = (urlsplit(root).path if is_remote(root) else root).rstrip("/") + "/"
    return path.removeprefix(base).strip("/")


def identity(address: str) -> list[Any]:
    """Return the identity of a file's bytes: its size, and its checksum or ETag in the file system.

    Without a checksum, the time of the last change; without that (a plain web server), the size alone, so that a change
    of equal length needs `--force`. Raises UserError if the file system does not answer.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(address)
        info = files.info(path)
        known = [[name, str(info[name])] for name in _CHECKSUMS if info.get(name)]
        return [info.get("size"), known or _modified(files, path)]
    except Exception as error:  # of an HTTP, S3, ... client
        raise UserError(f"Cannot read {address}: {first_line(error)}.") from error


def _modified(files: Any, path: str) -> str | None:
    try:
        time: datetime = files.modified(path)
    except (NotImplementedError, FileNotFoundError):
        return None
    return time.isoformat()
