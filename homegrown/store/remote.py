"""A remote copy of the artifact store at any address of `fsspec`, such as s3://bucket/prefix or a mounted folder.

The remote has the same files under the same names: paths relative to the store's folder. Credentials and options come
from fsspec's configuration files and the environment variables of each file system.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from homegrown.config import addresses
from homegrown.store.digests import sha256
from homegrown.util.elsewhere import filesystem
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

VARIABLE = "HOMEGROWN_REMOTE"
"""Environment variable of the address. No recipe sets it, because the remote is writable and trusted."""

_TRANSFERS = 8  # at the same time
_Item = TypeVar("_Item")


class Damaged(Exception):
    """A file of the remote that is missing or has a wrong digest; the message names it."""


class Remote:
    """Files at an address; the first call connects.

    Every error of the client becomes a UserError with the address.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._opened: tuple[Any, str] | None = None

    @classmethod
    def of_environment(cls) -> "Remote | None":
        """Return the remote that the environment sets; raise UserError if its address has a credential."""
        address = os.environ.get(VARIABLE)
        if address and addresses.has_credential(address):  # messages and logs have the address
            raise UserError(
                f"{VARIABLE} contains a password, key or token; set it in the environment variables of the file system "
                "instead (see docs/security.md)."
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
                    raise UserError(f"{VARIABLE}={self.address}: {top} does not exist; create it first.") from None
                return []
            return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory"]

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist."""
        with self._answering():
            files, root = self._place()
            try:
                content: bytes = files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def names(self, folder: str) -> set[str]:
        """Return the names of all files below a folder."""
        with self._answering():
            files, root = self._place()
            try:
                found = files.find(f"{root}/{folder}")
            except FileNotFoundError:
                return set()
            return {name[len(root) :].lstrip("/") for name in found}

    def upload(self, sources: Mapping[str, Path]) -> None:
        """Copy files to the remote, each to its name."""
        with self._answering():
            files, root = self._place()
            _each(lambda name: files.put_file(str(sources[name]), f"{root}/{name}"), sources)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._answering():
            files, root = self._place()
            files.pipe_file(f"{root}/{name}", content)

    def copy(self, names: Mapping[str, str]) -> None:
        """Copy files within the remote, by their old names; an object store does so itself."""
        with self._answering():
            files, root = self._place()
            _each(lambda name: files.cp_file(f"{root}/{name}", f"{root}/{names[name]}"), names)

    def download(self, places: Mapping[str, Path], digests: Mapping[str, str]) -> None:
        """Copy files from the remote to their places; `digests` has the SHA-256 of each, empty if none was taken.

        Raises:
            Damaged: a file is missing at the remote or has another digest; other files may have been copied.
        """

        def one(name: str) -> None:
            with replacing(places[name], scratch=True) as temporary:
                try:
                    files.get_file(f"{root}/{name}", str(temporary))
                except FileNotFoundError:
                    raise Damaged(f"{name} is missing at {self.address}") from None
                if digests[name] and sha256(temporary) != digests[name]:
                    raise Damaged(f"{name} at {self.address} has changed since it was published (its SHA-256 differs)")

        with self._answering():
            files, root = self._place()
            _each(one, digests)

    def remove(self, name: str) -> None:
        """Delete a file or a folder, if it exists."""
        with self._answering():
            files, root = self._place()
            try:
                files.rm(f"{root}/{name}", recursive=True)
            except FileNotFoundError:
                return

    def _place(self) -> tuple[Any, str]:
        """Return the file system and the path in it."""
        if self._opened is None:
            self._opened = filesystem(self.address)
        return self._opened

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (UserError, Damaged):
            raise
        except ImportError as error:
            extra = "; install it: pip install 'homegrown[s3]'" if self.address.startswith("s3") else ""
            raise UserError(f"{VARIABLE}={self.address} needs a package: {error}{extra}.") from error
        except Exception as error:  # of an S3, Google, ... client
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{VARIABLE}={self.address} cannot be used: {reason}.") from error


def _each(function: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call a function for each item in parallel; after an error no more calls start."""
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
