"""Code fingerprints: what changes them and what does not, on a copy of a small package."""

import ast
import gc
import os
import threading
from pathlib import Path

import pytest

from homegrown.store import fingerprint
from homegrown.store.fingerprint import code_fingerprint, reached
from homegrown.util.syntax import parse

ROOT = Path(fingerprint.__file__).parents[2]
_FILES = {
    "__init__.py": '"""Package."""\n',
    "util/__init__.py": "",
    "util/errors.py": "class E(Exception): ...\n",
    "helper.py": '"""Helps."""\nLIMIT = 3\n\n\ndef twice(x):\n    """Double."""\n    return 2 * x\n',
    "other.py": "def unrelated():\n    return 1\n",
    "text/__init__.py": "",
    "text/lazy.py": "VALUE = 1\n",
    "text/stage.py": (
        "from homegrown.util import errors\nfrom homegrown.helper import twice\n\n\n"
        "def run(x):\n    from homegrown.text import lazy\n    return twice(x) + lazy.VALUE\n"
    ),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in _FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(fingerprint, "_PACKAGE", tmp_path)
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    stamp = file.stat().st_mtime_ns + 1_000_000
    file.write_text(text.replace(old, new))
    os.utime(file, ns=(stamp, stamp))


def test_reaches_helpers_lazy_imports_and_packages_but_not_machinery(package: Path) -> None:
    assert reached(["homegrown.text.stage"]) == [
        "homegrown.helper",
        "homegrown.text",
        "homegrown.text.lazy",
        "homegrown.text.stage",
        "homegrown.util",
    ]


def test_the_modules_that_enter_no_key_exist() -> None:
    assert [name for name in fingerprint._MACHINERY if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("helper.py", "return 2 * x", "return 2 * x  # twice", False),
        ("helper.py", '"""Double."""', '"""Multiply by two."""', False),
        ("helper.py", '"""Helps."""', "", False),
        ("helper.py", "return 2 * x", "return (2\n            * x)", False),
        ("other.py", "return 1", "return 2", False),
        ("util/errors.py", "...", "pass", False),
        ("helper.py", "return 2 * x", "return x * 2", True),
        ("helper.py", "LIMIT = 3", "LIMIT = 4", True),
        ("text/lazy.py", "VALUE = 1", "VALUE = 2", True),
        ("text/stage.py", "twice(x) +", "twice(x) -", True),
    ],
)
def test_what_changes_a_fingerprint(package: Path, file: str, old: str, new: str, changes: bool) -> None:
    before = code_fingerprint(["homegrown.text.stage"])
    edit(package / file, old, new)
    assert (code_fingerprint(["homegrown.text.stage"]) != before) is changes


def test_what_is_remembered_of_a_file_changes_with_it(package: Path) -> None:
    cache, helper = package / "code.sqlite", package / "helper.py"
    for file in package.rglob("*.py"):
        os.utime(file, (1, 1))  # long ago: only what has settled is remembered
    before = code_fingerprint(["homegrown.text.stage"])
    assert [code_fingerprint(["homegrown.text.stage"], cache) for _ in range(2)] == [before, before]
    edit(helper, "return 2 * x", "return x + x")
    os.utime(helper, (2, 2))
    after = [code_fingerprint(["homegrown.text.stage"], cache) for _ in range(2)]
    assert after == [code_fingerprint(["homegrown.text.stage"])] * 2 and after[0] != before


def test_unknown_module_is_an_error(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        code_fingerprint(["homegrown.nowhere"])


def test_a_tree_is_whole_although_other_threads_parse_meanwhile() -> None:
    """While Python 3.11 builds a tree, a collection that runs Python code lets other threads build theirs."""
    asked, answered, source = threading.Semaphore(0), threading.Semaphore(0), b"x = [1, (2, {3: 4})]\n" * 500
    ended = threading.Event()

    def another() -> None:
        while asked.acquire() and not ended.is_set():
            ast.parse("y")
            answered.release()

    def collecting(phase: str, _: object) -> None:
        if phase == "start" and threading.current_thread() is threading.main_thread():
            asked.release()
            answered.acquire()

    def deep(calls: int) -> ast.Module:
        return deep(calls - 1) if calls else parse(source)

    thread, before = threading.Thread(target=another), gc.get_threshold()
    thread.start()
    gc.callbacks.append(collecting)
    gc.set_threshold(50)
    try:
        assert len(deep(30).body) == 500
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collecting)
        ended.set()
        asked.release()
        thread.join()
    assert gc.isenabled()
