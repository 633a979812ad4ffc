"""A second place for artifacts, such as s3://bucket/prefix or a mounted folder: whatever `fsspec` knows.

It holds the same files under the same names, a name being a file's path below the folder of artifacts. Credentials and
options are fsspec's own: its configuration files and the environment variables of each file system.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from homegrown.config import addresses
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

VARIABLE = "HOMEGROWN_REMOTE"
"""The environment names the place, never a recipe: it is written to, and what it holds is believed."""

_AT_ONCE = 8  # transfers side by side
_Item = TypeVar("_Item")


class Damaged(Exception):
    """A file that is missing, or is not what it should be; the message says which."""


class Remote:
    """Files at an address; asked for nothing before the first call.

    Whatever its client raises becomes a UserError that names the address.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._opened: tuple[Any, str] | None = None

    @classmethod
    def of_environment(cls) -> "Remote | None":
        """Return the one that the environment names; raise UserError when its address holds a credential."""
        address = os.environ.get(VARIABLE)
        if address and addresses.has_credential(address):  # it is named in messages and logs
            raise UserError(
                f"{VARIABLE} holds a password, key or token; leave it out, and give it in the environment of its file "
                "system (docs/security.md says how)."
            )
        return cls(address) if address else None

    def folders(self, parent: str) -> list[str]:
        """Return the names of the folders in the folder `parent`."""
        with self._answering():
            files, root = self._place()
            try:
                found = files.ls(f"{root}/{parent}", detail=True)
            except FileNotFoundError:
                top = root.split("/")[0] or "/"
                if not files.exists(top):
                    raise UserError(f"{VARIABLE}={self.address}: there is no {top}; make it first.") from None
                return []
            return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory"]

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file; None where there is none."""
        with self._answering():
            files, root = self._place()
            try:
                content: bytes = files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def send(self, root: Path, names: Iterable[str]) -> None:
        """Write files of the folder `root` there."""
        with self._answering():
            files, there = self._place()
            _each(lambda name: files.put_file(str(root / name), f"{there}/{name}"), names)

    def bring(self, root: Path, digests: Mapping[str, str]) -> None:
        """Write files here, below `root`, each whole; `digests` has the SHA-256 of each by its name.

        Raises Damaged for one that is missing there or has another digest; the others may be here by then.
        """

        def one(name: str) -> None:
            with replacing(root / name) as temporary:
                try:
                    files.get_file(f"{there}/{name}", str(temporary))
                except FileNotFoundError:
                    raise Damaged(f"{name} is missing at {self.address}") from None
                if sha256(temporary) != digests[name]:
                    raise Damaged(f"{name} at {self.address} is not what was published (its SHA-256 differs)")

        with self._answering():
            files, there = self._place()
            _each(one, digests)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        with self._answering():
            files, root = self._place()
            try:
                files.rm(f"{root}/{name}", recursive=True)
            except FileNotFoundError:
                return

    def _place(self) -> tuple[Any, str]:
        """Return the file system and the path in it."""
        if self._opened is None:
            from fsspec.core import url_to_fs

            local = urlsplit(self.address).scheme in ("", "file", "local")
            # Folders are listed anew each time: another machine may have written there since.
            options = {"auto_mkdir": True} if local else {"use_listings_cache": False}
            files, root = url_to_fs(self.address, **options)
            self._opened = files, root.rstrip("/")
        return self._opened

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (UserError, Damaged):
            raise
        except ImportError as error:
            extra = "; pip install 'homegrown[s3]'" if self.address.startswith("s3") else ""
            raise UserError(f"{VARIABLE}={self.address} needs a package: {error}{extra}.") from error
        except Exception as error:  # of an S3, Google, ... client
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{VARIABLE}={self.address} cannot be used: {reason}.") from error


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _each(function: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call a function for each item, several at once; after an error no more are begun."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
