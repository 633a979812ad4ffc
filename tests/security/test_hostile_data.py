"""Files that a stranger made: archives that lead elsewhere, bombs, pickles, text that patterns choke on, links."""

import io
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homegrown.config.corpus import FilesSource
from homegrown.corpus.contamination import runs_of_files
from homegrown.corpus.readers import formats, markup
from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.redaction import redact
from homegrown.corpus.sources import find_files
from homegrown.util.errors import UserError

LONGEST = 20_000_000


class Runs:
    """Makes the file `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._mark}",)


def read(path: Path) -> list[Document | Fault]:
    piece = Piece(str(path), path.name, size=path.stat().st_size)
    return list(formats.read(piece, FilesSource(name="x", path="x"), LONGEST, Tally()))


def test_members_of_archives_are_read_and_put_nowhere(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    names = ["../../evil.txt", "/tmp/homegrown-evil.txt", "a/../../evil.txt", "a\\..\\evil.txt", "good.txt"]
    with zipfile.ZipFile(inside / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "text")
    with tarfile.open(inside / "x.tar", "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
        for kind, name in ((tarfile.SYMTYPE, "link.txt"), (tarfile.LNKTYPE, "hard.txt"), (tarfile.CHRTYPE, "zero.txt")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    for name in ("x.zip", "x.tar"):
        assert [record.text for record in read(inside / name) if isinstance(record, Document)] == ["text"] * len(names)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["x.tar", "x.zip"]
    assert not Path("/tmp/homegrown-evil.txt").exists()


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
def test_a_sparse_member_is_not_unpacked(tmp_path: Path) -> None:
    with (tmp_path / "holes.txt").open("wb") as file:
        file.truncate(10_000_000_000)
    subprocess.run(["tar", "-C", tmp_path, "-S", "-cf", tmp_path / "x.tar", "holes.txt"], check=True)
    assert (tmp_path / "x.tar").stat().st_size < 100_000
    (fault,) = read(tmp_path / "x.tar")
    assert isinstance(fault, Fault) and "sparse" in fault.reason


def test_a_dictionary_of_a_table_is_no_bomb(tmp_path: Path) -> None:
    """20 GB of text in half a megabyte: one value, in 2,000 rows."""
    value = pa.array(["x" * 10_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), value)
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": column}), path, store_schema=False)
    assert path.stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    *documents, last = read(path)
    assert isinstance(last, Fault) and "hundreds of times" in last.reason
    assert 0 < len(documents) < 100
    assert pa.total_allocated_bytes() - before < 100_000_000


def test_honest_dictionaries_and_nulls_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array(["a", None, "b", "a"] * 3)}), path)
    found = read(path)
    assert [one.text if isinstance(one, Document) else one.reason for one in found] == [
        "a",
        "'text' is null",
        "b",
        "a",
    ] * 3


def test_a_packed_evaluation_is_no_bomb(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "x.txt.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(300):
            file.write(bytes(1_000_000))
    with pytest.raises(UserError, match="hundreds of times its size"):
        runs_of_files([str(path)])


def test_no_pickle_in_a_table_is_loaded(tmp_path: Path) -> None:
    """What pyarrow before 14.0.1 did with the metadata of this extension type (CVE-2023-47248)."""
    mark = tmp_path / "ran"
    names = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    field = pa.field("text", pa.string(), metadata=names | {b"ARROW:extension:metadata": pickle.dumps(Runs(mark))})
    table = pa.table([pa.array(["a text"])], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("x.parquet", "x.arrow"):
        read(tmp_path / name)
    assert not mark.exists()


@pytest.mark.timeout(300)
def test_patterns_take_linear_time() -> None:
    """Quadratic time would be many minutes for each, which is what the time-out stops."""
    for text in (
        "<![CDATA[" * 50_000,
        "<!--" * 50_000,
        "<!x" * 50_000,
        "<?x" * 50_000,
        " " * 500_000 + "x",
        "<p" * 9_000,
    ):
        markup.text_of_page(text)
    for text in ("!" * 200_000 + " @", "a@" + "b." * 200_000, "a." * 200_000 + "@", "+1 " * 100_000 + "@"):
        redact(pa.array([text]), ["email", "ip", "phone"])


def test_links_in_a_folder_are_followed_once(tmp_path: Path) -> None:
    """As docs/security.md says: whoever wrote the folder can have any file read that the user can read."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "private.txt").write_text("private")
    data = tmp_path / "data"
    data.mkdir()
    (data / "own.txt").write_text("own")
    (data / "folder").symlink_to(tmp_path / "outside")
    (data / "nowhere.txt").symlink_to(tmp_path / "gone.txt")
    (data / "zero.txt").symlink_to("/dev/zero")
    (data / "again").symlink_to(tmp_path / "outside")
    (data / "loop").symlink_to(data)
    found = find_files(FilesSource(name="x", path=str(data)))
    assert [piece.locator for piece in found.files] == ["again/private.txt", "own.txt"]
    assert set(found.skipped) == {"folder", "loop", "nowhere.txt", "zero.txt"}
