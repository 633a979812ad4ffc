"""Python's syntax trees, parsed safely in any thread."""

import ast
import gc
import threading
import warnings

_parsing = threading.Lock()


def parse(source: bytes, name: str = "<unknown>") -> ast.Module:
    """Return the syntax tree of a module, without warnings about its code; raise what `ast.parse` raises.

    Python 3.11 counts the depth of all trees together and fails with "AST constructor recursion depth mismatch" if
    another thread builds one meanwhile (CPython's issue 106905). A thread loses its turn there only when a garbage
    collection runs Python code, so none runs: a lock alone would not stop libraries, whose tracebacks are parsed too.
    It is for `catch_warnings`, which changes the filters of every thread, permanently if two overlap.
    """
    with _parsing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collects = gc.isenabled()
        gc.disable()
        try:
            return ast.parse(source, name)
        finally:
            if collects:
                gc.enable()
