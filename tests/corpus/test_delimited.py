"""Delimited files: the rows of the standard library's reader where it is right, and none lost where it is not."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.test_readers import read

OPEN = "a quotation mark opens and does not close; set quoting: false if it is text"


def rows_of(path: Path, data: str | bytes, **source: Any) -> tuple[list[str], list[tuple[int, str]]]:
    texts, faults = read(path, data.encode() if isinstance(data, str) else data, **source)
    return texts, [(fault.position, fault.reason) for fault in faults]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.sampled_from('a",;\t|\n\r \\é')), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_the_standard_library_writes_comes_back(
    tmp_path: Path, texts: list[str], delimiter: str, end: str, quoting: Any
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([["key", "text", "more"], *((f"k{n}", text, text) for n, text in enumerate(texts))])
    for ending in (".csv", ".tsv"):
        found = rows_of(tmp_path / f"a{ending}", file.getvalue())
        assert found == ([text.strip() for text in texts], [])


def table(*rows: str) -> str:
    return "".join(row + "\n" for row in ("id,text", *rows))


def test_an_open_quotation_mark_costs_one_row(tmp_path: Path) -> None:
    plain = [f"{n},plain {n}" for n in range(1, 8)]
    for place in range(7):
        rows = [*plain[:place], f'{place + 1},"open', *plain[place + 1 :]]
        expected = [f"plain {n}" for n in range(1, 8) if n != place + 1]
        assert rows_of(tmp_path / "a.csv", table(*rows)) == (expected, [(place + 1, OPEN)])
        tabs = table(*rows).replace(",", "\t")
        assert rows_of(tmp_path / "a.tsv", tabs) == (expected, [(place + 1, OPEN)])


@pytest.mark.parametrize("last", ['said "no"', '"quoted"', '"Why not?" he asked', 'closes"', '"two", "words"'])
def test_rows_below_an_open_quotation_mark_are_kept(tmp_path: Path, last: str) -> None:
    rows = ['1,"open', "2,plain", f"3,{last}", "4,plain"]
    texts, faults = rows_of(tmp_path / "a.csv", table(*rows))
    assert [text for text in texts if "plain" in text] == ["plain", "plain"]
    assert faults[0] == (1, OPEN)
    assert len(texts) + len(faults) == 4


def test_quotation_marks_within_a_row_are_text(tmp_path: Path) -> None:
    rows = ['1,"Why, not?" he asked', '2,5" pipe', '3,"a ""word"""', r'4,"she said \"no\" twice"', '5,"a\nb"', '6,""']
    expected = ['"Why, not?" he asked', '5" pipe', 'a "word"', 'she said "no" twice', "a\nb", ""]
    assert rows_of(tmp_path / "a.csv", table(*rows)) == (expected, [])
    assert rows_of(tmp_path / "a.csv", table('1,"a', '2,b"'), quoting=False) == (['"a', 'b"'], [])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str, ending: str) -> None:
    data = delimiter.join(("id", "text", "n")) + "\n" + delimiter.join(("1", '"a, b; c | d\te"', "2")) + "\n"
    assert rows_of(tmp_path / f"a{ending}", data) == (["a, b; c | d\te"], [])
    assert rows_of(tmp_path / f"a{ending}", 'id::text\n1::"a:: b"\n', delimiter="::") == (["a:: b"], [])


def test_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    data = 'text\nHello, world; yes\n"Quoted, too"\n\nlast\n'
    assert rows_of(tmp_path / "a.csv", data) == (["Hello, world; yes", "Quoted, too", "last"], [])


def test_a_file_without_header_is_read_by_the_number_of_the_column(tmp_path: Path) -> None:
    data = "1\tfirst passage\n2\tsecond passage\n"
    for settings_ in ({"text_column": "2"}, {"text_column": "2", "header": False}):
        assert rows_of(tmp_path / "a.tsv", data, **settings_) == (["first passage", "second passage"], [])
    assert rows_of(tmp_path / "a.csv", "one passage\nand, another\n", header=False)[0] == [
        "one passage",
        "and, another",
    ]
    _, [(position, reason)] = rows_of(tmp_path / "a.tsv", data)
    assert position == 0 and reason.endswith("set text_column to one of: 1, first passage; or header: false.")
    _, [(_, reason)] = rows_of(tmp_path / "a.tsv", data, header=False)
    assert reason == "a.tsv has no header; set text_column to the number of a column, 1 to 2."
    assert rows_of(tmp_path / "a.tsv", "1\t2\na\tb\n", text_column="2", header=True) == (["b"], [])


def test_old_line_ends_and_excels_first_line_are_read(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", "id,text\r1,a\r2,b\r") == (["a", "b"], [])
    assert rows_of(tmp_path / "a.csv", 'sep=|\nid|text\n1|"a, b"\n') == (["a, b"], [])
    assert rows_of(tmp_path / "a.csv", "\n\nid, text \n1,a") == (["a"], [])


def test_a_field_beyond_the_limit_is_skipped_with_its_row_alone(tmp_path: Path) -> None:
    long = "many words\n" * 500_000
    data = table("1,a", f'2,"{long} ""x"" "', "3,b", f"4,{long[:3_500_000].replace(chr(10), ' ')}", "5,c")
    texts, faults = rows_of(tmp_path / "a.csv", data)
    assert texts == ["a", "b", "c"]
    assert faults == [(n, "a field is longer than 1 MB (max_document_mb)") for n in (2, 4)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text(st.sampled_from('ab",;\n\\'), max_size=60))
def test_no_line_vanishes(tmp_path: Path, body: str) -> None:
    """Letters are in a document, or a fault tells of their row."""
    texts, faults = rows_of(tmp_path / "a.csv", "id,text\n" + body)
    kept = sum(text.count("a") + text.count("b") for text in texts)
    assert faults or "," in body or kept == body.count("a") + body.count("b")


def test_columns_of_structures_and_bytes_are_read(tmp_path: Path) -> None:
    inner = [{"body": "one", "n": 1}, None, {"body": "two", "n": 2}]
    for kind in (pa.string(), pa.binary(), pa.large_binary()):
        data = pa.table({"post": pa.array(inner, pa.struct([("body", kind), ("n", pa.int64())]))})
        for ending in (".parquet", ".arrow"):
            file = io.BytesIO()
            if ending == ".parquet":
                pq.write_table(data, file)
            else:
                with pa.ipc.new_file(file, data.schema) as writer:
                    writer.write_table(data)
            texts, faults = rows_of(tmp_path / f"a{ending}", file.getvalue(), text_column="post.body")
            assert (texts, faults) == (["one", "two"], [(2, "'post.body' is null")]), (kind, ending)
            _, [(_, reason)] = rows_of(tmp_path / f"a{ending}", file.getvalue(), text_column="post.text")
            assert reason.endswith("set text_column to one of: post.body, post.n.")
            _, [(_, reason)] = rows_of(tmp_path / f"a{ending}", file.getvalue(), text_column="post.n")
            assert "has type int64, not text" in reason
