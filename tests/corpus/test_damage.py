"""Compressed files that end early or are damaged: all that precedes the damage, and one fault."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import zstandard

from homegrown.config.corpus import FilesSource
from homegrown.corpus.compression import Damaged
from homegrown.corpus.readers import formats
from homegrown.corpus.records import Document, Fault, Tally
from homegrown.corpus.sources import find_files
from homegrown.corpus.streams import check_end, opened, unpacked
from tests.corpus import samples

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lzma.compress,
}


def words(seed: int, size: int) -> bytes:
    """Lines of random words, which compress to a fraction, and not to nothing."""
    random = Random(seed)
    lines = (" ".join(str(random.randrange(10**6)) for _ in range(12)) for _ in range(size // 80))
    return "".join(json.dumps({"n": n, "text": line}) + "\n" for n, line in enumerate(lines)).encode()


def read(path: Path, data: bytes, **settings: str) -> tuple[list[str], list[Fault]]:
    path.write_bytes(data)
    source = FilesSource(name="raw", path=str(path), **settings)
    records = [record for piece in find_files(source).files for record in formats.read(piece, source, 10**7, Tally())]
    return [r.text for r in records if isinstance(r, Document)], [r for r in records if isinstance(r, Fault)]


def decompressed(path: Path, data: bytes, compression: str) -> tuple[bytes, str]:
    """Return the bytes before damage, and the message about it."""
    path.write_bytes(data)
    with opened(str(path)) as file, unpacked(file, compression) as stream:
        found = stream.read()
        try:
            check_end(stream)
        except Damaged as error:
            return found, str(error)
    return found, ""


@pytest.mark.parametrize("compression", list(PACK))
def test_members_and_padding_are_read_to_the_end(tmp_path: Path, compression: str) -> None:
    parts = [words(n, 30_000) for n in range(3)]
    data = b"".join(PACK[compression](part) for part in (parts[0], b"", *parts[1:]))
    assert decompressed(tmp_path / "a", data, compression) == (b"".join(parts), "")
    if compression in (".gz", ".xz"):
        assert decompressed(tmp_path / "a", data + bytes(512), compression) == (b"".join(parts), "")
    assert decompressed(tmp_path / "a", b"", compression) == (b"", "")


def test_skippable_frames_and_long_windows_of_zstd_are_read(tmp_path: Path) -> None:
    text = words(1, 3_000_000)
    long = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=31, write_content_size=False)
    )
    writer = io.BytesIO()
    with long.stream_writer(writer, closefd=False) as out:
        out.write(text)
    skippable = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skipped"
    assert zstandard.get_frame_parameters(writer.getvalue()).window_size > 2**27
    assert decompressed(tmp_path / "a", writer.getvalue() + skippable + writer.getvalue(), ".zst") == (text * 2, "")


@pytest.mark.parametrize("compression", list(PACK))
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_a_cut_file_gives_all_lines_before_the_cut_and_one_fault(
    tmp_path: Path, compression: str, share: float
) -> None:
    """Compared with what each library gives of the cut bytes, fed one by one."""
    text = words(2, 200_000)
    data = PACK[compression](text[:100_000]) + PACK[compression](text[100_000:])
    data = data[: max(1, int(len(data) * share))]
    before, message = decompressed(tmp_path / "a", data, compression)
    assert before == one_by_one(data, compression)
    assert text.startswith(before) and "ends early" in message and f"{len(before):,} bytes" in message
    texts, faults = read(tmp_path / f"a.jsonl{compression}", data)
    assert texts == [json.loads(line)["text"] for line in before.splitlines(keepends=True) if line.endswith(b"\n")]
    assert [(fault.position, fault.reason) for fault in faults] == [(len(texts) + 1, message)]


def one_by_one(data: bytes, compression: str) -> bytes:
    new: dict[str, Callable[[], object]] = {
        ".gz": lambda: zlib.decompressobj(31),
        ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
        ".bz2": bz2.BZ2Decompressor,
        ".xz": lzma.LZMADecompressor,
    }
    output, member = b"", new[compression]()
    for place in range(len(data)):
        if member.eof:
            member = new[compression]()
        try:
            output += member.decompress(data[place : place + 1])
        except (zlib.error, zstandard.ZstdError, OSError, lzma.LZMAError):
            break
    return output


@pytest.mark.parametrize("compression", list(PACK))
def test_a_flipped_byte_costs_what_follows_it(tmp_path: Path, compression: str) -> None:
    text = words(3, 400_000)
    data = bytearray(PACK[compression](text[:200_000]) + PACK[compression](text[200_000:]))
    data[len(data) * 3 // 4] ^= 0xFF
    before, message = decompressed(tmp_path / "a", bytes(data), compression)
    assert before == one_by_one(bytes(data), compression)
    assert before.startswith(text[:200_000]) and "invalid after" in message
    texts, faults = read(tmp_path / f"a.jsonl{compression}", bytes(data))
    assert texts == list(filter(None, map(text_of, before.splitlines(keepends=True)))) and faults[-1].reason == message


def text_of(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["text"]) if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return None


def test_garbage_after_the_data_is_a_fault_and_the_data_is_read(tmp_path: Path) -> None:
    text = words(4, 50_000)
    for compression, pack in PACK.items():
        found, message = decompressed(tmp_path / "a", pack(text) + b"garbage after it", compression)
        assert found == text and f"invalid after {len(text):,}" in message


@pytest.mark.parametrize("compression", list(PACK))
def test_every_format_keeps_what_precedes_the_cut(tmp_path: Path, compression: str) -> None:
    """A text and a page are kept up to the cut, of tables and lists the complete records."""
    sentence = "The quick brown fox jumps over the lazy dog, and the farmer looks for his old grey hat. "
    random = Random(5)
    texts = [sentence + str(random.random()) for _ in range(4000)]
    for ending, data, settings in (
        (".txt", "\n".join(texts).encode(), {}),
        (".txt", "|".join(texts).encode(), {"separator": "|"}),
        (".csv", samples.table(",")(texts), {}),
        (".tsv", samples.table("\t")(texts), {}),
        (".json", samples.json_array(texts), {}),
        (".json", samples.json_columns(texts), {}),
        (".xml", samples.sgml(texts), {}),
    ):
        packed = PACK[compression](data)
        got, faults = read(tmp_path / f"a{ending}{compression}", packed[: len(packed) * 2 // 3], **settings)
        assert len(faults) == 1 and "ends early" in faults[0].reason, (ending, faults)
        if len(got) == 1 and not settings:
            assert data.decode().startswith(got[0].rstrip("�"))
        else:
            assert len(got) > 500, ending
            assert [text.strip() for text in got] == texts[: len(got)], "complete records, and no part of one"


def test_a_cut_archive_gives_the_members_before_the_cut(tmp_path: Path) -> None:
    members = {f"{n}.txt": words(n, 100_000) for n in range(6)}
    for compression, pack in PACK.items():
        packed = pack(samples.tarred(members))
        texts, faults = read(tmp_path / f"a.tar{compression}", packed[: len(packed) // 2])
        assert [text.encode() for text in texts] == list(members.values())[: len(texts)]
        assert len(texts) >= 2
        assert "ends early" in faults[-1].reason and faults[-1].path == f"a.tar{compression}"


def test_a_cut_tar_without_compression_is_a_fault(tmp_path: Path) -> None:
    data = samples.tarred({f"{n}.txt": words(n, 20_000) for n in range(4)})
    texts, faults = read(tmp_path / "a.tar", data[: len(data) * 5 // 8])
    assert len(texts) == 2 and faults


def test_the_command_line_tool_agrees(tmp_path: Path) -> None:
    text = words(6, 300_000)
    data = gzip.compress(text)[: 2 * len(gzip.compress(text)) // 3]
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    shown = subprocess.run(["gzip", "-dc", str(tmp_path / "a.jsonl.gz")], capture_output=True, check=False).stdout
    texts, faults = read(tmp_path / "a.jsonl.gz", data)
    assert len(texts) == shown.count(b"\n") and len(faults) == 1


@pytest.mark.parametrize("compression", ["", ".gz"])
def test_members_of_a_tar_behind_a_damaged_head_and_a_joined_tar_are_read(tmp_path: Path, compression: str) -> None:
    pack = gzip.compress if compression else bytes
    name = f"a.tar{compression}"
    whole = samples.tarred({f"{n}.txt": words(n, 900) for n in range(4)})
    head = whole.index(b"2.txt\0")
    wrong = whole[: head + 148] + b"999999" + whole[head + 154 :]  # the checksum
    texts, faults = read(tmp_path / name, pack(wrong))
    assert texts == [words(n, 900).decode() for n in (0, 1, 3)]
    assert [(fault.path, "a head is damaged" in fault.reason) for fault in faults] == [(name, True)]
    texts, faults = read(tmp_path / name, pack(whole) + pack(samples.tarred({"4.txt": words(4, 900)})))
    assert texts == [words(n, 900).decode() for n in range(5)] and not faults
    cut = whole.rindex(b"3.txt\0")
    for end in (cut, cut + 100):  # between two members, and in a head
        texts, faults = read(tmp_path / name, pack(whole[:end]))
        assert texts == [words(n, 900).decode() for n in range(3)] and len(faults) == 1
    texts, faults = read(tmp_path / name, pack(b"no tar at all " * 100))
    assert not texts and "not a tar" in faults[0].reason
