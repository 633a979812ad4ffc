import csv
import gzip
import hashlib
import json
import logging
import os
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from homegrown.config.corpus import AnySource, IngestSettings
from homegrown.corpus import records, units
from homegrown.corpus.ingest import ingest
from homegrown.corpus.readers import formats
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tests.corpus.made_up import digests, files, rows_of


def run(out: Path, settings: IngestSettings) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Outcome]:
    """Ingest; return documents, quarantine and outcome."""
    with ThreadPoolExecutor(2) as pool:
        outcome = ingest(out, settings, executor=pool)
    return rows_of(out / "documents"), rows_of(out / "quarantine"), outcome


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


TEXTS = ["first text", 'second,\n"quoted" text', "Ünïcödé — 漢字"]


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "deep").mkdir(parents=True)
    (raw / "a.jsonl").write_bytes(lines(TEXTS))
    (raw / "b.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS)))
    (raw / "c.jsonl.zst").write_bytes(zstandard.compress(lines(TEXTS)))
    with (raw / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["n", "text"], *enumerate(TEXTS)])
    pq.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3]}), raw / "deep" / "e.parquet")
    pq.write_table(pa.table({"text": pa.array(TEXTS).dictionary_encode()}), raw / "deep" / "f.parquet")
    (raw / "g.txt").write_text(TEXTS[2])
    (raw / "h.md").write_bytes(b"\xef\xbb\xbf" + TEXTS[1].encode())
    (raw / "picture.png").write_bytes(b"\x89PNG\0\0\0")
    documents, quarantine, outcome = run(tmp_path / "out", files(raw))
    by_path: dict[str, list[str]] = {}
    for document in documents:
        by_path.setdefault(document["path"], []).append(document["text"])
    tables = ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.csv", "deep/e.parquet", "deep/f.parquet"]
    assert by_path == {**dict.fromkeys(tables, TEXTS), "g.txt": [TEXTS[2]], "h.md": [TEXTS[1]]}
    assert [d["position"] for d in documents] == [1, 2, 3] * 6 + [1, 1]
    assert len({d["id"] for d in documents}) == 20 and all(len(d["id"]) == 32 for d in documents)
    assert not quarantine
    assert outcome.rows_out == 20 and outcome.metrics["skipped_files"] == 1
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "documents",
        "quarantine",
        "repairs",
        "skipped.parquet",
        "sources.parquet",
    ]


def test_bad_lines_go_to_quarantine_one_by_one(tmp_path: Path) -> None:
    bad = [b"{broken", b'["a list"]', b'{"other": 1}', b'{"text": 5}', b'{"text": " \\u0000 "}', b'{"text": "\xff"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(['{"text": "gööd"}'.encode(), b"", *bad, lines(["last"])]))
    documents, quarantine, outcome = run(tmp_path / "out", files(tmp_path / "a.jsonl"))
    assert [(d["text"], d["position"]) for d in documents] == [("gööd", 1), ("last", 9)]
    assert [row["position"] for row in quarantine] == [3, 4, 5, 6, 7, 8]
    for row, reason in zip(
        quarantine,
        ["malformed", "not a JSON object", "no key", "not a string", "no text", "invalid bytes"],
        strict=True,
    ):
        assert reason in row["reason"]
    assert outcome.metrics["quarantined"] == 6 and outcome.rows_in == 8


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"MZ\0\0\1", "NUL"),
        ("a.txt", b"", "no text"),
        ("a.jsonl", b"\0\1\2" * 50, "NUL"),
        ("a.csv", b"text\n\0\0\0", "NUL"),
        ("a.parquet", b"not parquet", "cannot be read"),
        ("a.jsonl.gz", b"not gzip", "invalid after 0 bytes"),
        ("a.jsonl.gz", gzip.compress(lines(TEXTS * 50))[:-20], "ends early"),
        ("a.jsonl.zst", b"not zstandard", "invalid after 0 bytes"),
    ],
)
def test_damaged_files_go_to_quarantine_and_the_rest_is_read(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(data)
    (tmp_path / "raw" / "good.md").write_text("good")
    documents, quarantine, _ = run(tmp_path / "out", files(tmp_path / "raw"))
    assert "good" in [document["text"] for document in documents]
    assert [reason in row["reason"] for row in quarantine if row["path"] == name] == [True]


def test_csv_rows_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    long = "x" * 2_000_000
    rows = ["n,text", "1,one", "2", f'3,"{long}', 'and, ""more""",', '4,"fo""ur"', "5,\xff", f"6,{long}", '7,"se\nven"']
    (tmp_path / "a.csv").write_bytes(
        b"\n".join(row.encode("utf-8" if "\xff" not in row else "latin-1") for row in rows)
    )
    documents, quarantine, _ = run(tmp_path / "out", files(tmp_path / "a.csv", max_document_mb=1))
    assert [d["text"] for d in documents] == ["one", 'fo"ur', "ÿ", "se\nven"]
    assert [(row["position"], row["reason"]) for row in quarantine] == [
        (2, "the row has 1 fields, the header 2"),
        (3, "a field is longer than 1 MB (max_document_mb)"),
        (6, "a field is longer than 1 MB (max_document_mb)"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_of_200_megabytes_stays_out_of_memory(tmp_path: Path, name: str, executor: Executor) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(b'{"text": "' if name == "a.jsonl" else b"text\n")
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "good"}\n' if name == "a.jsonl" else b"\ngood\n")
    tracemalloc.start()
    ingest(tmp_path / "out", files(tmp_path / name, max_document_mb=1), executor=executor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == ["good"]
    assert ["longer" in row["reason"] for row in rows_of(tmp_path / "out" / "quarantine")] == [True]
    assert peak < 30_000_000


def test_a_text_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good.txt").write_text("good")
    with (tmp_path / "raw" / "huge.txt").open("wb") as file:
        file.truncate(2_000_000_000)
    _, quarantine, _ = run(tmp_path / "out", files(tmp_path / "raw"))
    assert [(row["path"], row["reason"]) for row in quarantine] == [("huge.txt", "longer than 20 MB (max_document_mb)")]


def test_foreign_encodings_of_tables_are_read(tmp_path: Path) -> None:
    text = "L'été, à la forêt, où les élèves déjeunèrent près d'un chêne, fût-ce à Noël. " * 4
    (tmp_path / "a.csv").write_bytes(("text\n" + f'"{text}"\n' * 20).encode("cp1252"))
    (tmp_path / "b.jsonl").write_bytes(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for _ in range(9)).encode("utf-16")
    )
    documents, _, _ = run(tmp_path / "out", files(tmp_path / "*"))
    assert [document["text"] for document in documents] == [text] * 29


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.parquet", None, "a.parquet has no column 'text'; set text_column to one of: body, n"),
        ("a.csv", b"body,n\nx,1\n", "a.csv has no column 'text'; set text_column to one of: body, n"),
        (
            "a.jsonl",
            b'{"body": "x", "n": 1}\n' * 3,
            "No object of a.jsonl has the key 'text'; set text_column to one of: body, n",
        ),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is None:
        pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", files(tmp_path / name))
    assert message in str(error.value)


def test_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"'text' of a\.parquet has type int64"):
        run(tmp_path / "out", files(tmp_path / "a.parquet"))


def test_a_source_without_readable_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").touch()
    (tmp_path / "empty.txt").touch()
    for path, message in [
        ("missing", "no file or folder"),
        ("folder", "no file in a supported format"),
        ("*.csv", "no file in a supported format"),
        ("folder/a.png", "no file in a supported format"),
        ("empty.txt", "empty.txt is in quarantine: no text"),
    ]:
        with pytest.raises(UserError, match=message):
            run(tmp_path / "out", files(tmp_path / path))


def test_parts_of_large_files_make_the_same_table(tmp_path: Path) -> None:
    texts = [f"document number {i} " + "word " * (i % 40) for i in range(3000)]
    (tmp_path / "a.jsonl").write_bytes(lines(texts[:1500]) + b"\nbroken\n" + lines(texts[1500:]))
    pq.write_table(pa.table({"text": texts}), tmp_path / "b.parquet", row_group_size=100)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(whole, files(tmp_path / "*.*", shard_mb=100))
    found = run(parts, files(tmp_path / "*.*", shard_mb=0.05))
    assert found == expected
    assert len(list((parts / "documents").iterdir())) == 14  # 2 x 0.35 MB of text
    assert [row["position"] for row in found[1]] == [1502]


def test_a_limit_takes_the_first_documents_whatever_the_workers(tmp_path: Path, processes: Executor) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(40):
        (tmp_path / "raw" / f"{number:02d}.jsonl").write_bytes(lines([f"{number} {i} " + "x" * 990 for i in range(20)]))
    settings = files(tmp_path / "raw", limit_mb=0.25, shard_mb=0.03)
    ingest(tmp_path / "two", settings, executor=processes)
    with ThreadPoolExecutor(1) as pool:
        ingest(tmp_path / "one", settings, executor=pool)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    texts = [row["text"] for row in rows_of(tmp_path / "one" / "documents")]
    assert texts == [f"{n // 20} {n % 20} " + "x" * 990 for n in range(len(texts))]
    assert 249_000 < sum(map(len, texts)) <= 250_000


def test_hub_reads_a_local_folder_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    for name, part in (("a", TEXTS[:2]), ("b", TEXTS[2:])):
        (tmp_path / "data" / f"{name}.jsonl").write_bytes(lines(part))

    def settings(**source: str) -> IngestSettings:
        source = {"kind": "hub", "name": "hub", "dataset": str(tmp_path / "data"), **source}
        return IngestSettings.model_validate({"sources": [source]})

    documents, _, _ = run(tmp_path / "out", settings())
    assert [(d["text"], d["path"], d["position"]) for d in documents] == [
        (TEXTS[0], "train/00000", 1),
        (TEXTS[1], "train/00000", 2),
        (TEXTS[2], "train/00001", 1),
    ]
    with pytest.raises(UserError, match="no column 'body'; set text_column to one of: text"):
        run(tmp_path / "out2", settings(text_column="body"))
    with pytest.raises(UserError, match="cannot be opened"):
        run(tmp_path / "out3", settings(split="nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing cannot be opened"):
        run(tmp_path / "out4", settings(dataset="nobody/nothing"))


def test_folders_of_save_to_disk_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    dataset = datasets.Dataset.from_dict({"text": TEXTS * 10})
    dataset.save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(tmp_path / "splits")
    monkeypatch.setattr("homegrown.corpus.hub._SHARD_BYTES", 300)

    def texts(folder: str, split: str) -> list[str]:
        source = {"kind": "hub", "name": "hub", "dataset": str(tmp_path / folder), "split": split}
        documents, _, _ = run(
            tmp_path / "out" / folder / split, IngestSettings.model_validate({"sources": [source], "shard_mb": 1})
        )
        return [document["text"] for document in documents]

    assert texts("one", "train") == texts("splits", "train") == TEXTS * 10
    assert texts("splits", "test") == [TEXTS[1]]
    with pytest.raises(UserError, match="it has no split 'dev', only train, test"):
        texts("splits", "dev")


def test_a_wrong_column_is_an_error_after_the_first_unit(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "x"}\n' * 30_000)
    with pytest.raises(UserError, match=r"No object of a\.jsonl has the key 'text'"):
        run(tmp_path / "out", files(tmp_path, shard_mb=0.01))
    assert len(list((tmp_path / "out" / "units" / "raw").iterdir())) <= 9  # of 42; those in flight with the first


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """Metadata before, between and after the text, in units of their own."""
    metadata, texts = b'{"title": "x"}\n' * 2000, b"".join(lines([f"text {n}"]) for n in range(2000))
    found = []
    for order in (("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a")):
        folder = tmp_path / "".join(order)
        folder.mkdir()
        for name, data in zip(order, (metadata, texts, metadata), strict=True):
            (folder / f"{name}.jsonl").write_bytes(data)
        documents, quarantine, _ = run(folder / "out", files(folder / "*.jsonl", shard_mb=0.01))
        found.append(([row["text"] for row in documents], len(quarantine)))
    assert found == [([f"text {n}" for n in range(2000)], 4000)] * 3


def test_one_file_with_another_column_beside_good_ones_is_quarantined(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("body\nx\n")
    (tmp_path / "d.jsonl").write_bytes(lines(TEXTS))
    documents, quarantine, _ = run(tmp_path / "out", files(tmp_path / "*.*"))
    assert [document["text"] for document in documents] == TEXTS
    assert [(row["path"], row["position"]) for row in quarantine] == [("a.parquet", 0), ("b.parquet", 0), ("c.csv", 0)]


def test_a_weight_keeps_its_share_and_less_of_it_keeps_the_same(tmp_path: Path) -> None:
    texts = [f"document {i} " + "x" * 500 for i in range(4000)]
    (tmp_path / "a.jsonl").write_bytes(lines(texts + texts[:500]))
    kept: dict[float, list[str]] = {}
    for weight in (0.2, 0.7, 1):
        documents, _, outcome = run(tmp_path / str(weight), files(tmp_path / "a.jsonl", weight=weight, shard_mb=0.3))
        kept[weight] = [document["text"] for document in documents]
        assert outcome.metrics["left_out_by_weight"] == 4500 - len(documents)
        assert abs(len(set(kept[weight])) - 4000 * weight) < 4 * (4000 * weight * (1 - weight)) ** 0.5 + 1
    assert set(kept[0.2]) < set(kept[0.7]) < set(kept[1])
    assert all(kept[0.7].count(text) == 2 for text in set(texts[:500]) & set(kept[0.7])), "copies stay together"
    limited, _, _ = run(tmp_path / "limited", files(tmp_path / "a.jsonl", weight=0.7, limit_mb=0.5))
    assert [document["text"] for document in limited] == kept[0.7][: len(limited)] and len(limited) > 900


def test_separated_text_is_cut_into_units_that_make_the_same_table(tmp_path: Path) -> None:
    texts = [f"story {i}\n" + "word " * (i % 50) for i in range(4000)]
    (tmp_path / "a.txt").write_text("<|endoftext|>\n".join(texts))
    whole = run(tmp_path / "whole", files(tmp_path / "a.txt", separator="<|endoftext|>\n", shard_mb=100))
    parts = run(tmp_path / "parts", files(tmp_path / "a.txt", separator="<|endoftext|>\n", shard_mb=0.03))
    assert parts == whole and [document["text"] for document in whole[0]] == texts


@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_changes_while_it_is_read_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The new content has the same size and time, and the time of the file's facts is that of no clock."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one"]))
    os.utime(path, (1, 1))
    own = formats.read
    known = {"a.jsonl": hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(records, "last_change", lambda status: status.st_mtime_ns)
    monkeypatch.setattr(units, "last_change", lambda status: status.st_mtime_ns)

    def edit() -> None:
        path.write_bytes(lines(["two"]))
        os.utime(path, (1, 1))

    def read(*arguments: Any) -> Iterator[Any]:
        yield from own(*arguments)
        edit()

    def change(source: AnySource) -> dict[str, str]:
        edit()
        return known

    if late:
        monkeypatch.setattr(formats, "read", read)
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match=r"raw: \S+a\.jsonl changed while it was read"):
        ingest(tmp_path / "out", files(path), executor=pool, check=change if not late else lambda source: known)


def test_an_edit_that_keeps_size_and_time_of_a_large_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a file are compared by its facts."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one"] * 1000))
    os.utime(path, (1, 1))
    own = formats.read

    def read(*arguments: Any) -> Iterator[Any]:
        yield from own(*arguments)
        path.write_bytes(lines(["two"] * 1000))
        os.utime(path, (1, 1))

    monkeypatch.setattr(formats, "read", read)
    small = files(path).model_copy(update={"shard_mb": 0.001})
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match=r"raw: \S+a\.jsonl changed while it was read"):
        ingest(tmp_path / "out", small, executor=pool)


def test_a_key_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import ingest as task

    monkeypatch.setattr(task, "store", lambda: Store(tmp_path / "artifacts"))
    path = tmp_path / "a.txt"
    path.write_text("one")
    settings = files(path)
    raw = task._content(settings)
    known = task._check_unchanged(raw, settings.sources[0])
    assert known == {"a.txt": hashlib.sha256(b"one").hexdigest()}
    path.write_text("two")
    with pytest.raises(UserError, match="raw: its files changed since the run started; run again"):
        task._check_unchanged(raw, settings.sources[0])


def test_warnings_of_libraries_are_counted_and_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = formats.read

    def read(*arguments: Any) -> Iterator[Any]:
        logging.getLogger("pypdf._reader").warning("a repair")
        yield from own(*arguments)
        logging.getLogger("trafilatura.core").error("a page")
        logging.getLogger("trafilatura.core").info("nothing")

    monkeypatch.setattr(formats, "read", read)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("text")
    _, _, outcome = run(tmp_path / "out", files(tmp_path / "*.txt"))
    assert outcome.metrics["library_warnings"] == 4
    assert pq.read_table(tmp_path / "out" / "sources.parquet")["warnings"].to_pylist()[0] == 4
    assert not any(word in "".join(capfd.readouterr()) for word in ("repair", "page"))
