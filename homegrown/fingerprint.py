"""The fingerprint of a stage's code: the syntax trees of the engine modules that it reaches through imports."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent

# Machinery around the stages: it decides when and where work runs, never what a stage makes. A stage's settings enter
# its key by value, so `recipe`, which only types them, is here too.
_MACHINERY = frozenset(
    f"homegrown.{name}"
    for name in (
        *("artifacts", "cluster", "digests", "errors", "fingerprint", "locks", "outcome", "parallel", "progress"),
        *("recipe", "relay", "remote_store"),
    )
)


def reached(entries: Iterable[str]) -> list[str]:
    """Return the names of the engine modules reachable from the modules `entries`, themselves included, sorted."""
    seen: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in seen or name in _MACHINERY:
            continue
        seen.add(name)
        waiting.extend(_imports(*_source(name)))
    return sorted(seen)


def code_fingerprint(entries: Iterable[str]) -> str:
    """Return the SHA-256 over every reached module's syntax tree; comments, layout and docstrings do not count."""
    digest = hashlib.sha256()
    for name in reached(entries):
        digest.update(f"{name}\0{_dump(*_source(name))}\0".encode())
    return digest.hexdigest()


def _file(module: str) -> Path | None:
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _source(module: str) -> tuple[Path, int]:
    file = _file(module)
    if file is None:
        raise ModuleNotFoundError(f"{module} is no module of the engine")
    return file, file.stat().st_mtime_ns


@cache
def _imports(file: Path, changed_ns: int) -> tuple[str, ...]:
    """Return the engine modules that a file names in import statements, also those inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] == "homegrown" and _file(name))


@cache
def _dump(file: Path, changed_ns: int) -> str:
    tree = ast.parse(file.read_bytes(), str(file))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
    return ast.dump(tree)
