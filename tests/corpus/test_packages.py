import ast
import importlib.metadata
import json
import sys
from collections import Counter
from concurrent.futures import Executor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from homegrown.config.corpus import IngestSettings
from homegrown.corpus import packages
from homegrown.corpus.ingest import ingest
from homegrown.corpus.records import Document, Fault, Piece
from homegrown.corpus.sources import content
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError
from tests.corpus.made_up import files, rows_of

MODULE = '''
"""Module docstring that says what the module is about, in enough words to be worth keeping as a document of its own.

    Indented second paragraph, which makes it long enough.
"""

import nothing.that.exists

if sys.version_info > (3,):
    def one(a, b: int = 1, /, c=2, *rest, key, **others) -> None:
        """Do one thing.

        In detail, as docstrings should.
        """

class Thing(Base, other.Mixin, Generic[T]):
    """A thing."""

    async def method(self, *, flag):
        """Do it."""

    def undocumented(self): ...
'''


def test_a_module_becomes_its_docstrings_under_short_signatures() -> None:
    assert packages.documentation(MODULE.encode()) == (
        "Module docstring that says what the module is about, in enough words to be worth keeping as a document of its "
        "own.\n\nIndented second paragraph, which makes it long enough."  # cleandoc takes the common indentation away
        "\n\ndef one(a, b, c, *rest, key, **others)\nDo one thing.\n\nIn detail, as docstrings should."
        "\n\nclass Thing(Base, Mixin)\nA thing."
        "\n\ndef Thing.method(self, *, flag)\nDo it."
    )
    assert packages.documentation(b'"""Too short."""') == ""


def test_what_does_not_parse_is_a_fault(tmp_path: Path) -> None:
    texts = {"good.py": MODULE, "bad.py": MODULE + "def (:", "deep.py": MODULE + "x = " + "-" * 100_000 + "1"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "nul.py").write_bytes(MODULE.encode() + b"\0")
    names = [*sorted(texts), "nul.py", "gone.py"]
    found = list(packages.read(tuple(Piece(str(tmp_path / name), name) for name in names)))
    assert [(type(record), record.path) for record in found] == [
        (Fault, "bad.py"),
        (Fault, "deep.py"),
        (Document, "good.py"),
        (Fault, "nul.py"),
    ]


def test_the_installed_packages_without_ours_tests_of_python_and_imports(tmp_path: Path, executor: Executor) -> None:
    settings = IngestSettings.model_validate(
        {"sources": [{"kind": "packages", "name": "installed", "limit_mb": 1}], "shard_mb": 0.25}
    )
    before = set(sys.modules)
    outcome = ingest(tmp_path / "out", settings, executor=executor)
    assert not [
        name
        for name in set(sys.modules) - before
        if name.startswith(("torch", "matplotlib", "sympy", "this", "idlelib"))
    ]
    documents = rows_of(tmp_path / "out" / "documents")
    assert 950_000 < sum(len(row["text"].encode()) for row in documents) <= 1_000_000
    assert outcome.rows_out == len(documents)
    tops = Counter(row["path"].split("/")[0] for row in documents)
    assert len(tops) > 20, "a mix of packages, not the first ones"
    assert not {"homegrown", "tasks", "flows", "test", "site-packages"} & set(tops)
    sizes = [sum(len(row["text"]) for row in rows_of_part) for rows_of_part in _parts(tmp_path / "out" / "documents")]
    assert len(sizes) == 4 and max(sizes) < 1.4 * min(sizes)


def _parts(folder: Path) -> list[list[dict[str, str]]]:
    import pyarrow.parquet as pq

    return [pq.read_table(part).to_pylist() for part in sorted(folder.iterdir())]


def test_a_documents_text_is_in_its_module() -> None:
    piece = next(piece for piece in packages.library() if piece.locator == "json/decoder.py")
    document = next(iter(packages.read((piece,))))
    assert isinstance(document, Document)
    docstring = ast.get_docstring(ast.parse(Path(piece.address).read_text()).body[-1])  # class JSONDecoder
    assert docstring and docstring in document.text


def test_editable_installs_and_scripts_are_not_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, origin in (("plain", {}), ("edited", {"dir_info": {"editable": True}})):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (folder / "direct_url.json").write_text(json.dumps(origin))
        (folder / "RECORD").write_text(f"{name}/a.py,sha256=x,5\n../../bin/run,sha256=y,5\n{name}/a.pyc,,\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert importlib.metadata.version("pytest")
    found = packages.distributions()
    assert [(one.name, one.version, one.modules) for one in found] == [
        ("plain", "1.0", (("plain/a.py", "sha256=x", 5),))
    ]

    def identity() -> list[str]:
        with Digests(tmp_path / "digests.sqlite") as remembered:
            return packages.identity(remembered)

    first, record = identity(), tmp_path / "plain-1.0.dist-info" / "RECORD"
    assert len(first) == 1
    for record_text, changes in (
        (f"{record.read_text()}plain/data.json,,\n", False),
        ("plain/a.py,sha256=z,5\n", True),
    ):
        record.write_text(record_text)
        assert (identity() != first) is changes


def test_only_packages_of_the_constraints_are_content_and_what_differs_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    module = f'"""{"A sentence about a module. " * 20}"""\n'

    def install(name: str, version: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (tmp_path / name).mkdir(exist_ok=True)
        written = (tmp_path / name / "a.py").write_text(module + f"{name} = 1")
        (folder / "RECORD").write_text(f"{name}/a.py,sha256={version},{written}\n")

    for name in ("My_Package", "newer", "other"):
        install(name, "1.0+cpu")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(packages, "library", list)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(
        "# tested together\nmy-package==1.0\nnewer==2.0  # by hand\ngone==1\nelsewhere==1; python_version < '3'\n"
    )
    found = packages.deviations(str(constraints))
    assert (found.missing, found.other) == (("gone",), (f"newer 1.0+cpu (==2.0 in {constraints})",))
    settings = IngestSettings.model_validate(
        {"sources": [{"kind": "packages", "name": "demo", "constraints": str(constraints)}]}
    )
    ingest(tmp_path / "out", settings, executor=executor)
    read = {row["path"] for row in rows_of(tmp_path / "out" / "documents")}
    assert read == {"My_Package/a.py", "newer/a.py"}
    skipped = [(row["path"], row["reason"]) for row in pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist()]
    assert skipped == [("gone", "not installed")]

    def identity() -> dict[str, str]:
        with Digests(tmp_path / "digests.sqlite") as remembered:
            return content(settings, remembered)

    before = identity()
    install("unlisted", "1.0")
    assert identity() == before
    install("gone", "1")
    assert identity() != before
    constraints.write_text("fine==1\nnot a requirement\n")
    with pytest.raises(UserError, match=r"constraints\.txt, line 2: 'not a requirement' is not NAME==VERSION"):
        identity()
    constraints.unlink()
    with pytest.raises(UserError, match=r"constraints\.txt cannot be read"):
        identity()


def test_content_follows_bytes_and_names_not_places(tmp_path: Path) -> None:
    def identity(folder: str) -> dict[str, str]:
        with Digests(tmp_path / "digests.sqlite") as remembered:
            return content(files(tmp_path / folder), remembered)

    def of(folder: str, **texts: str) -> dict[str, str]:
        (tmp_path / folder).mkdir(parents=True)
        for name, text in texts.items():
            (tmp_path / folder / f"{name}.txt").write_text(text)
        return identity(folder)

    first = of("one", a="x", b="y")
    assert of("two", a="x", b="y") == first
    assert of("three", a="x", b="z") != first
    assert of("four", a="x", c="y") != first
    (tmp_path / "one" / "ignored.png").touch()
    assert identity("one") == first
