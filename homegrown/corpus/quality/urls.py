"""Lists of domains and URLs: how many of their lines cover the URL of a document.

A domain covers itself and its subdomains; `co.uk` is all of it. A URL covers itself and what continues it after `/`,
`?` or `&`. Both are compared without case, scheme, user, fragment and the ports 80 and 443; another port covers this
port only. `www.example.com` is `example.com` without its other subdomains. Names in punycode equal those in Unicode.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from homegrown.corpus.quality.texts import Values
from homegrown.corpus.records import last_change
from homegrown.util.errors import UserError

_URL = re.compile(r"(?:(?:[a-z][a-z0-9+.-]*:)?//)?([^/?#]*)([^#]*)", re.IGNORECASE)
_PLAIN = re.compile(r"(?!www\.)(?:(?!xn--)[a-z0-9_-]{1,63}\.)+[a-z]{2,63}")
_LABEL = re.compile(r"[^\x00-,./:-@[-^`{-\x7f\s]{1,63}")
_BORDER = re.compile(r"[/?&]")
_LONGEST_HOST = 253  # characters of a name (RFC 1035)
_MOST_BORDERS = 64  # of a URL; a listed URL has fewer


class _Address(NamedTuple):
    """A URL in the form that is compared: the path without a last `/`; port is "" or a colon and a number."""

    host: str
    is_number: bool  # an IP address
    port: str
    path: str


def matches(found: Values) -> Values:
    """Return the number of lines that cover the URL of a document."""
    return found


def look_up(urls: pa.StringArray, paths: list[str], setting: str) -> Values:
    """Return by document the number of lines that cover its URL, NaN without one; raise UserError for a bad list."""
    entries = _entries(tuple((path, _changed(path, setting)) for path in paths), setting)
    keys: list[int] = []
    rows: list[int] = []
    found = np.full(len(urls), np.nan)
    for row, url in enumerate(urls.to_pylist()):
        address = _address(url) if url else None
        if address:
            found[row] = 0
            own = [xxhash.xxh3_64_intdigest(key) for key in _candidates(address)]
            keys += own
            rows += [row] * len(own)
    hashes = np.array(keys, np.uint64)
    places = np.minimum(np.searchsorted(entries, hashes), len(entries) - 1)
    np.add.at(found, np.array(rows, np.int64)[entries[places] == hashes], 1)
    return found


def check(paths: list[str], setting: str) -> None:
    """Raise UserError for a list that cannot be read, with its line."""
    look_up(pa.array([], pa.string()), paths, setting)


def _changed(path: str, setting: str) -> int:
    if not Path(path).is_file():
        raise UserError(f"{setting}: {path} cannot be read (not a file).")
    return last_change(Path(path).stat())


@cache
def _entries(lists: tuple[tuple[str, int], ...], setting: str) -> NDArray[np.uint64]:
    """Return the sorted hashes of the lines of all lists, given with the times of their last changes."""
    hashes = [
        np.fromiter((xxhash.xxh3_64_intdigest(key) for key in _keys(path, setting)), np.uint64) for path, _ in lists
    ]
    entries = np.unique(np.concatenate(hashes))
    if not len(entries):
        raise UserError(f"{setting}: no domain or URL in {', '.join(path for path, _ in lists)}; write one per line.")
    return entries


def _keys(path: str, setting: str) -> Iterator[str]:
    """Yield what is compared for each line of a file."""
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                entry = line.partition("#")[0].strip()
                if _PLAIN.fullmatch(entry) and len(entry) <= _LONGEST_HOST:
                    yield entry
                elif entry:
                    problem = _problem(entry)
                    if problem:
                        raise UserError(f"{setting}: {path}, line {number}: {problem}.")
                    yield from _keys_of(entry)
    except UnicodeDecodeError as error:
        raise UserError(f"{setting}: {path} is not UTF-8 text ({error}).") from error
    except OSError as error:
        raise UserError(f"{setting}: {path} cannot be read ({error.strerror}).") from error


def _problem(entry: str) -> str:
    """Return what is wrong with a line."""
    shown = entry if len(entry) <= 80 else f"{entry[:80]}…"
    scheme = entry.partition("://")[0].lower() if "://" in entry else "http"
    if scheme not in ("http", "https"):
        return f"{shown!r} has another scheme than http; write its domain"
    address = _address(entry)
    if re.search(r"\s", entry) or address is None:
        return f"{shown!r} is neither a domain nor a URL; write example.com or example.com/path"
    if address.path.endswith("*"):
        return f"{shown!r} ends with a wildcard; leave it out, because a line covers what continues it"
    return ""


def _keys_of(entry: str) -> Iterator[str]:
    """Yield what is compared for a line without a problem."""
    address = _address(entry)
    if address is None:
        return
    bare = address.host.removeprefix("www.")
    if address.path:
        yield f"{bare}{address.port}{address.path}"
    elif address.is_number:
        yield f"={address.host}{address.port}"
    else:
        yield f"{address.host}{address.port}"
        if bare != address.host:
            yield f"={bare}{address.port}"


def _candidates(address: _Address) -> Iterator[str]:
    """Yield the keys of all lines that would cover a URL."""
    host, is_number, _, path = address
    bare = host.removeprefix("www.")
    for port in dict.fromkeys(("", address.port)):
        yield f"={host}{port}"
        if not is_number:
            yield f"{host}{port}"
            yield from (f"{host[dot + 1 :]}{port}" for dot, letter in enumerate(host) if letter == ".")
        if path:
            borders = [found.start() for found in _BORDER.finditer(path, 1)][:_MOST_BORDERS]
            yield from dict.fromkeys(f"{bare}{port}{path[:end]}" for end in (*borders, len(path)) if end > 1)


def _address(url: str) -> _Address | None:
    """Return a URL, or one without scheme, in the form that is compared; None for what is none."""
    found = _URL.match(url.strip().replace("\\", "/"))
    if not found:
        return None
    authority, rest = found.groups()
    authority = authority.rpartition("@")[2]
    if authority.startswith("["):
        name, closed, port = authority[1:].partition("]")
        if not closed or port[:1] not in ("", ":") or ":" not in name:
            return None
        port = port[1:]
    elif authority.count(":") > 1:
        name, port = authority, ""
    else:
        name, _, port = authority.partition(":")
    host = _host(name)
    if host is None or not (port == "" or (port.isascii() and port.isdecimal() and int(port) < 2**16)):
        return None
    path = unicodedata.normalize("NFC", unquote(rest)).lower().rstrip("/")
    if path.startswith("?"):
        path = f"/{path}"
    return _Address(*host, "" if port in ("", "80", "443") else f":{int(port)}", path)


def _host(name: str) -> tuple[str, bool] | None:
    """Return a host in Unicode and small letters, and whether it is an IP address; None for what is none."""
    if not name.isascii() or "%" in name:
        name = unicodedata.normalize("NFKC", unquote(name)).replace("\u3002", ".")
    name = name.lower().removesuffix(".")
    try:
        number = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return f"[{number}]" if number.version == 6 else str(number), True
    labels = [_label(label) for label in name.split(".")]
    host = ".".join(labels)
    if len(name) > _LONGEST_HOST or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
        return None
    return host, False


def _label(label: str) -> str:
    """Return a label of a name in Unicode."""
    if not label.startswith("xn--"):
        return label
    try:
        return unicodedata.normalize("NFC", label[4:].encode("ascii").decode("punycode")).lower()
    except UnicodeError:
        return label
