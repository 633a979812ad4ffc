"""The fingerprint of a stage's code: the syntax trees of the engine modules that it reaches through imports."""

import ast
import hashlib
import json
import sys
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from homegrown.store.digests import Digests

_PACKAGE = Path(__file__).parents[1]
_parsing = threading.Lock()
"""Python 3.11 fails ("AST constructor recursion depth mismatch") when two threads parse at once, as Dask's do."""

# Machinery around the stages: it decides when and where work runs, never what a stage makes. A stage's settings enter
# its key by value, so `recipe`, which only types them, is here too.
_MACHINERY = frozenset(
    f"homegrown.{name}"
    for name in (
        *("cluster.dask", "cluster.relay", "config.finetune_recipe", "config.recipe", "store.artifacts"),
        *("store.digests", "store.fingerprint", "store.remote", "util.errors", "util.locks", "util.parallel"),
        "util.progress",
    )
)


class _Module(NamedTuple):
    """What a module's syntax tree says."""

    digest: str
    """SHA-256 of the tree without docstrings."""
    imports: list[str]
    """Names in import statements that may be the engine's modules."""


def reached(entries: Iterable[str]) -> list[str]:
    """Return the names of the engine modules reachable from the modules `entries`, themselves included, sorted."""
    return sorted(_modules(entries, None))


def code_fingerprint(entries: Iterable[str], cache: Path | None = None) -> str:
    """Return the SHA-256 over every reached module's syntax tree; comments, layout and docstrings do not count.

    What the trees say is remembered in the file `cache`: parsing all of them takes most of a second in each process.
    """
    digest = hashlib.sha256()
    for name, module in sorted(_modules(entries, cache).items()):
        digest.update(f"{name}\0{module.digest}\0".encode())
    return digest.hexdigest()


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
                raise ModuleNotFoundError(f"{name} is no module of the engine")
            found[name] = _module(file, digests)
            waiting.extend(one for one in found[name].imports if _file(one))
    return found


def _file(module: str) -> Path | None:
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _module(file: Path, digests: Digests | None) -> _Module:
    # Another Python may write the same tree down differently.
    text = digests.of(file, f"syntax {sys.version}", _parsed) if digests else _parsed(file)
    return _Module(*json.loads(text))


def _parsed(file: Path) -> str:
    with _parsing:
        tree = ast.parse(file.read_bytes(), str(file))
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
