"""The documentation of the installed Python packages: their modules, and a text from the docstrings of each.

Modules are parsed, not imported. The RECORD of a distribution lists its files (PEP 376, PEP 627).
With a constraints file of pip, only its packages are read, so that other ones come and go without other text.
"""

import ast
import csv
import gc
import hashlib
import inspect
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from homegrown.corpus.records import Document, Fault, Piece
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError
from homegrown.util.syntax import parse

_OURS = frozenset({"homegrown", "tasks", "flows"})
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
_SHORTEST = 200  # minimum characters of docstrings in a module for a document
_SHOWN = 3  # packages that a message names
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Distribution:
    """An installed distribution: its root and its modules with digest and size from RECORD."""

    name: str
    version: str
    root: Path
    modules: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Deviations:
    """How the installed packages differ from a constraints file: names, and names with both versions."""

    missing: tuple[str, ...]
    other: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.other)

    def __str__(self) -> str:
        parts = [f"not installed: {_first(self.missing)}"] if self.missing else []
        parts += [f"another version: {_first(self.other)}"] if self.other else []
        return "; ".join(parts)


def _first(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def distributions(constraints: str | None = None) -> list[Distribution]:
    """Return the distributions in site-packages by name, without editable ones and homegrown.

    With `constraints`, only those that the constraints file lists, in any version.
    """
    found = map(_distribution, _records(constraints))
    return sorted(found, key=lambda distribution: (distribution.name, distribution.version))


def identity(digests: Digests, constraints: str | None = None) -> list[str]:
    """Return the identity of the distributions: a SHA-256 of name, version and modules for each."""
    return sorted(digests.of(record, "distribution", _digest) for record in _records(constraints))


def deviations(constraints: str) -> Deviations:
    """Compare the installed packages with a constraints file; those for other systems or Pythons are left out."""
    installed = dict(map(_name_and_version, _records(constraints)))
    missing, other = [], []
    for name, requirement in _pinned(constraints).items():
        if requirement.marker and not requirement.marker.evaluate():
            continue
        if name not in installed:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(Version(installed[name]).public, prereleases=True):
            other.append(f"{requirement.name} {installed[name]} ({requirement.specifier} in {constraints})")
    return Deviations(tuple(missing), tuple(other))


def _pinned(constraints: str) -> dict[str, Requirement]:
    """Return the lines of a constraints file by the normalized name of the package.

    Raises:
        UserError: the file is missing, or a line is not a requirement.
    """
    try:
        lines = Path(constraints).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The constraints file {constraints} cannot be read ({error}); name another one.") from error
    found: dict[str, Requirement] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise UserError(f"{constraints}, line {number}: {text!r} is not NAME==VERSION; correct it.") from error
        found[canonicalize_name(requirement.name)] = requirement
    return found


def _name_and_version(record: Path) -> tuple[str, str]:
    """Return the normalized name and the version of a distribution, which its folder is named after (PEP 427)."""
    name, _, version = record.parent.name.removesuffix(".dist-info").rpartition("-")
    return canonicalize_name(name), version


def _digest(record: Path) -> str:
    found = _distribution(record)
    return hashlib.sha256(json.dumps([found.name, found.version, found.modules]).encode()).hexdigest()


def _records(constraints: str | None) -> list[Path]:
    """Return the RECORDs in site-packages, of the packages in a constraints file; they include METADATA's digest."""
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = (record for folder in folders for record in Path(folder).glob("*.dist-info/RECORD"))
    names = None if constraints is None else set(_pinned(constraints))
    return [
        record for record in found if (names is None or _name_and_version(record)[0] in names) and not _editable(record)
    ]


def _distribution(record: Path) -> Distribution:
    # Only the head of METADATA: importlib.metadata parses all of it, which takes ten times as long.
    head, _, _ = record.with_name("METADATA").read_text(encoding="utf-8").partition("\n\n")
    fields = HeaderParser().parsestr(head)
    rows = csv.reader(record.read_text(encoding="utf-8").splitlines())
    modules = sorted((row[0], row[1], int(row[2] or 0)) for row in rows if len(row) > 2 and _is_module(row[0]))
    return Distribution(fields["Name"], fields["Version"], record.parent.parent, tuple(modules))


def _editable(record: Path) -> bool:
    origin = record.with_name("direct_url.json")
    return origin.is_file() and bool(json.loads(origin.read_bytes()).get("dir_info", {}).get("editable"))


def _is_module(path: str) -> bool:
    return path.endswith(".py") and not path.startswith(("..", "/")) and path.split("/")[0] not in _OURS


def library() -> list[Piece]:
    """Return the modules of the standard library in order, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    pieces = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_LIBRARY]
        for name in names:
            if name.endswith(".py"):
                path = Path(folder, name)
                pieces.append(Piece(str(path), path.relative_to(root).as_posix(), size=path.stat().st_size))
    return sorted(pieces, key=lambda piece: piece.locator)


def modules(constraints: str | None = None) -> list[Piece]:
    """Return all modules in the order of a hash of their paths, so that any prefix is a fair mix of packages."""
    pieces = library()
    for distribution in distributions(constraints):
        pieces += [Piece(str(distribution.root / path), path, size=size) for path, _, size in distribution.modules]
    return sorted(pieces, key=lambda piece: hashlib.sha256(piece.locator.encode()).digest())


def read(pieces: tuple[Piece, ...]) -> Iterator[Document | Fault]:
    """Yield a document for each documented module, and a fault for each that does not parse."""
    collecting = gc.isenabled()
    gc.disable()  # syntax trees have no cycles, and searching for them takes a fifth of the time
    try:
        for piece in pieces:
            yield from _read_module(piece)
    finally:
        if collecting:
            gc.enable()


def _read_module(piece: Piece) -> Iterator[Document | Fault]:
    try:
        source = Path(piece.address).read_bytes()
        text = documentation(source) if _may_be_documented(source) else ""
    except FileNotFoundError:
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        yield Fault(piece.locator, 0, f"does not parse as Python: {error.__class__.__name__}")
        return
    if text:
        yield Document(piece.locator, 1, text)


def _may_be_documented(source: bytes) -> bool:
    """Return whether triple quotes enclose enough of the module; a hundred times faster than parsing."""
    return any(sum(map(len, source.split(quotes)[1::2])) >= _SHORTEST for quotes in (b'"""', b"'''"))


def documentation(source: bytes) -> str:
    """Return a module's docstring, then signature and docstring of each documented class and function.

    Empty if the docstrings have fewer than 200 characters. Raises SyntaxError or ValueError for a module that does not
    parse, RecursionError or MemoryError for one nested too deeply.
    """
    tree = parse(source)
    own = inspect.cleandoc(ast.get_docstring(tree, clean=False) or "")
    blocks = [own] if own else []
    length = len(own)
    for prefix, node in _definitions(tree.body, ""):
        docstring = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
        if docstring:
            blocks.append(f"{_signature(prefix, node)}\n{docstring}")
            length += len(docstring)
    return "\n\n".join(blocks) if length >= _SHORTEST else ""


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Scope]]:
    """Yield the classes and functions of a body with the prefix of their names, also those under if and try."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix, node
        elif isinstance(node, ast.ClassDef):
            yield prefix, node
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body, prefix)
            for handler in getattr(node, "handlers", []):
                yield from _definitions(handler.body, prefix)
            yield from _definitions(node.orelse, prefix)


def _signature(prefix: str, node: _Scope) -> str:
    """Return `class Name(Base)` or `def name(first, *rest, key, **others)`: names, no types, no values."""
    if isinstance(node, ast.ClassDef):
        bases = [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
        return f"class {prefix}{node.name}({', '.join(filter(None, bases))})".removesuffix("()")
    arguments = node.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return f"def {prefix}{node.name}({', '.join(names)})"
