"""The fingerprint of a stage's code: the syntax trees of the engine modules that it imports, directly or not."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from homegrown.store.digests import Digests
from homegrown.util.files import replacing
from homegrown.util.syntax import parse

_PACKAGE = Path(__file__).parents[1]

# Modules around the stages: they decide when and where work runs, not what a stage makes. Settings enter a key by
# value, so the modules that only type them are here too.
_SETTINGS = "adaptation compute corpus evaluation export filter finetune_recipe model recipe settings tokens training"
_MACHINERY = frozenset(
    f"homegrown.{package}.{module}"
    for package, modules in {
        "cluster": "dask",
        "config": _SETTINGS,
        "store": "artifacts digests fingerprint manifest remote",
        "util": "errors locks parallel progress",
    }.items()
    for module in modules.split()
)


class _Module(NamedTuple):
    """The facts of a module's syntax tree."""

    digest: str
    """SHA-256 of the tree without docstrings."""
    imports: list[str]
    """Names in import statements that may be engine modules."""


def reached(entries: Iterable[str]) -> list[str]:
    """Return the sorted names of the engine modules reachable from `entries`, including these."""
    return sorted(_modules(entries, None))


def code_fingerprint(entries: Iterable[str], cache: Path | None = None) -> str:
    """Return the SHA-256 of the syntax trees of all reached modules, without comments, layout and docstrings.

    The facts of the trees are cached in the file `cache`, because parsing them takes most of a second per process. The
    modules are noted beside it, for `changed_modules`.
    """
    digest = hashlib.sha256()
    modules = {name: module.digest for name, module in sorted(_modules(entries, cache).items())}
    for name, tree in modules.items():
        digest.update(f"{name}\0{tree}\0".encode())
    found = digest.hexdigest()
    if cache and not (note := _note(cache.parent, found)).exists():
        with suppress(OSError), replacing(note) as temporary:  # a store that cannot be written, or a full disk
            temporary.write_text(json.dumps(modules))
    return found


def changed_modules(state: Path, before: str, now: str) -> list[str]:
    """Return the modules that differ between two fingerprints of this store; empty if one is not noted in `state`."""
    try:
        one, two = (json.loads(_note(state, code).read_text()) for code in (before, now))
    except (OSError, ValueError):
        return []
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


def _note(state: Path, code: str) -> Path:
    return state / "code" / f"{code}.json"


def _modules(entries: Iterable[str], cache: Path | None) -> dict[str, _Module]:
    found: dict[str, _Module] = {}
    waiting = list(entries)
    with Digests(cache) if cache else nullcontext() as digests:
        while waiting:
            name = waiting.pop()
            if name in found or name in _MACHINERY:
                continue
            file = _file(name)
            if file is None:
                raise ModuleNotFoundError(f"{name} is not a module of the engine")
            found[name] = _module(file, digests)
            waiting.extend(one for one in found[name].imports if _file(one))
    return found


def _file(module: str) -> Path | None:
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _module(file: Path, digests: Digests | None) -> _Module:
    # Another Python version may dump the same tree differently.
    text = digests.of(file, f"syntax {sys.version}", _parsed) if digests else _parsed(file)
    return _Module(*json.loads(text))


def _parsed(file: Path) -> str:
    tree = parse(file.read_bytes(), str(file))
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
    ours = [name for name in names if name.split(".")[0] == "homegrown"]
    return json.dumps(_Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), ours))
