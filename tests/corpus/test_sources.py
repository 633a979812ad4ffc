"""Files that a source finds, and those that it leaves out with their reasons."""

import os
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from homegrown.config.corpus import FilesSource
from homegrown.corpus import records
from homegrown.corpus.sources import content, find_files, finding_once
from homegrown.store.digests import Digests
from homegrown.util.errors import UserError
from tests.corpus.made_up import files
from tests.corpus.test_ingest import run
from tests.other_user import ALICE, done, needs_root, open_folder


def test_what_was_not_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    raw, other = tmp_path / "raw", tmp_path / "other"
    (raw / "deep").mkdir(parents=True)
    (raw / ".git").mkdir()
    (other / "inner").mkdir(parents=True)
    for path in (
        raw / "a.txt",
        raw / "deep" / "b.txt",
        raw / ".git" / "c.txt",
        raw / ".d.txt",
        other / "inner" / "e.txt",
    ):
        path.write_text(f"text of {path.name}")
    (raw / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (raw / "linked").symlink_to(other)
    (raw / "again").symlink_to(other / "inner")
    (raw / "up").symlink_to(raw)
    (raw / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(raw / "pipe.txt")
    with tarfile.open(raw / "t.tar", "w") as archive:
        archive.add(raw / "a.txt", "one.txt")
        for name, kind in (("hard.txt", tarfile.LNKTYPE), ("soft.txt", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "one.txt"
            archive.addfile(member)
    with zipfile.ZipFile(raw / "z.zip", "w") as packed:
        info = zipfile.ZipInfo("soft.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "one.txt")
        packed.writestr("b.docm", b"x\0\0\0")
    documents, quarantine, outcome = run(tmp_path / "out", files(raw))
    assert [row["path"] for row in documents] == ["a.txt", "again/e.txt", "deep/b.txt", "t.tar/one.txt"]
    skipped = pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist()
    elsewhere = "a link to a folder that is read by another name"
    assert {row["path"]: row["reason"] for row in skipped} == {
        ".d.txt": "hidden",
        ".git": "hidden",
        "gone.txt": "a link to nothing",
        "linked/inner": elsewhere,
        "picture.png": ".png: not a supported format",
        "pipe.txt": "not a regular file",
        "t.tar/hard.txt": "a link to one.txt",
        "t.tar/soft.txt": "a link to one.txt",
        "up": elsewhere,
        "z.zip/b.docm": ".docm: not a supported format",
        "z.zip/soft.txt": "a link",
    }
    assert not quarantine and outcome.metrics["skipped_files"] == len(skipped) == 11


def test_files_are_those_that_the_file_system_lists(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    names = ["b.txt", "a.TXT", "a/b.md.gz", "a b/ü.csv", "z/y/x.tgz", "a.b/c.jsonl.zst", "txt", "a/txt.gz", "no.doc"]
    code = ["main.py", "Makefile", "package-lock.json", "a/site.min.js", "vendor/x.go", "vendor/notes.txt"]
    for name in [*names, *code, "node_modules/b/c.js", "__MACOSX/b.txt", "a/__MACOSX.txt", "a/.b.txt"]:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(name.encode())
    (raw / "no.doc").write_bytes(b"\xd0\xcf\x11\xe0\0\0")
    (raw / "id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (raw / "__init__.py").touch()
    (raw / "altes.c").write_bytes("/* Länge der größten Zeile */\n".encode("latin-1") * 9)
    (raw / "a" / "b.txt").symlink_to(raw / "b.txt")
    (raw / "c").symlink_to(raw / "a.b")
    found = find_files(FilesSource(name="raw", path=str(raw)))
    elsewhere = "a link to a folder that is read by another name"
    skipped = {
        "__MACOSX/b.txt": "hidden",
        "a/__MACOSX.txt": "hidden",
        "a/.b.txt": "hidden",
        "a/site.min.js": "minified",
        "a/txt.gz": "empty",
        "c": elsewhere,
        "__init__.py": "empty",
        "id_rsa": "a key or a certificate",
        "no.doc": ".doc: not a supported format",
        "node_modules": "installed or generated",
        "package-lock.json": "a lock file",
        "vendor/x.go": "other people's source code",
    }
    files_there = {path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()}
    expected = sorted(files_there - skipped.keys() - {"node_modules/b/c.js"})
    assert [piece.locator for piece in found.files] == expected
    for piece in found.files:
        path = raw / piece.locator
        assert (piece.address, piece.size) == (str(path.resolve()), path.stat().st_size)
        assert piece.changed == records.last_change(path.stat())
    assert found.skipped == skipped
    assert {"txt", "main.py", "Makefile", "altes.c", "vendor/notes.txt"} <= set(expected)
    assert find_files(FilesSource(name="raw", path=str(raw / "package-lock.json"))).files  # one that is named is read
    (tmp_path / "go.sum").mkdir()
    (tmp_path / "go.sum" / "go.sum").write_text("text")
    with pytest.raises(UserError, match=r"skipped: go\.sum \(a lock file\)"):  # its folder is named
        find_files(FilesSource(name="raw", path=str(tmp_path / "go.sum")))
    both = [piece for piece in found.files if piece.locator in ("a/b.txt", "b.txt", "vendor/notes.txt")]
    assert find_files(FilesSource(name="raw", path=str(raw / "**" / "*.txt"))).files == both


@pytest.mark.skipif(sys.platform == "darwin", reason="names are Unicode there")
def test_names_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / os.fsdecode(b"\xe9t\xe9")).mkdir(parents=True)
    for name in (b"good.txt", b"caf\xe9.txt", b"pic\xe9.png", b"\xe9t\xe9/a.txt"):
        (raw / os.fsdecode(name)).write_text("text")
    with Digests(tmp_path / "digests.sqlite") as known:
        content(files(raw), known)
    documents, _, _ = run(tmp_path / "out", files(raw))
    assert [row["path"] for row in documents] == ["good.txt"]
    skipped = {row["path"]: row["reason"] for row in pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist()}
    assert skipped == dict.fromkeys(("caf?.txt", "pic?.png", "?t?/a.txt"), "its name is not UTF-8; rename it")


@needs_root
def test_folders_that_cannot_be_opened_are_listed() -> None:
    with open_folder() as folder:
        for name in ("open/a.txt", "closed/b.txt", "listed/c.txt", "listed/deep/d.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("text")
        (folder / "closed").chmod(0o700)
        (folder / "listed").chmod(0o744)
        assert done(ALICE, _check_closed_folders, folder) == 0


def _check_closed_folders(folder: Path) -> None:
    found = find_files(FilesSource(name="raw", path=str(folder)))
    assert [piece.locator for piece in found.files] == ["open/a.txt"]
    refused = "cannot be opened: Permission denied"
    assert found.skipped == {"closed": refused, "listed/c.txt": refused, "listed/deep": refused}


def test_a_command_that_plans_looks_for_files_once(tmp_path: Path) -> None:
    source = FilesSource(name="raw", path=str(tmp_path))
    (tmp_path / "a.txt").write_text("text")
    with finding_once():
        first = find_files(source)
        (tmp_path / "b.txt").write_text("text")
        assert find_files(source) is first
        assert [piece.locator for piece in find_files(source.model_copy(update={"separator": "x"})).files] == [
            "a.txt",
            "b.txt",
        ]
    assert [piece.locator for piece in find_files(source).files] == ["a.txt", "b.txt"]
