"""Encodings: labels as browsers read them, guesses on prose in many languages, invalid bytes counted."""

import io
import json
from pathlib import Path

import pytest

from homegrown.config.corpus import FilesSource
from homegrown.corpus.encodings import LEAST_CONFIDENCE, Undecodable, as_utf8, codec_of, confidence, decode
from homegrown.corpus.readers import formats
from homegrown.corpus.records import Document, Fault, Tally
from homegrown.corpus.sources import find_files
from homegrown.corpus.streams import buffered
from homegrown.util.errors import UserError
from tests.corpus import samples
from tests.corpus.made_up import files
from tests.corpus.test_ingest import run

FRENCH = "L'été, à la forêt, où les élèves déjeunèrent près d'un chêne, fût-ce à Noël. "
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. "
JAPANESE = "これは都市の交通についての短い文章です。毎朝、多くの人が電車で会社に行きます。"
PROSE = {  # language: a passage, and the encodings in which people have written it
    "French": (FRENCH, ["cp1252"]),
    "German": (
        "Über den Dächern der Stadt hört man früh am Morgen schöne Glocken, und die Straßen füllen sich. ",
        ["cp1252"],
    ),
    "Spanish": (
        "El niño comió una piña mientras su mamá leía el periódico en el jardín; ¿qué más podía pedir? ",
        ["cp1252"],
    ),
    "Turkish": (
        "Şehir içi ulaşım hakkında kısa bir yazı: her sabah birçok kişi işe giderken metroya biniyor. ",
        ["iso8859-9"],
    ),
    "Polish": (
        "Wieczorem wróciła do domu, żeby ugotować obiad i przeczytać książkę, którą dostała od męża. ",
        ["cp1250", "iso8859-2"],
    ),
    "Czech": (
        "Příliš mnoho lidí si myslí, že vlak přijede včas, ačkoli každý ví, že to tak bývá málokdy. ",
        ["cp1250", "iso8859-2"],
    ),
    "Russian": (RUSSIAN, ["cp1251", "koi8-r", "cp866", "iso8859-5"]),
    "Ukrainian": (
        "Його сім'я жила в старому будинку біля річки, і щодня діти бігали туди ловити рибу. ",
        ["cp1251", "koi8-u"],
    ),
    "Greek": (
        "Το πρωί οι άνθρωποι πηγαίνουν στη δουλειά τους με το λεωφορείο και διαβάζουν την εφημερίδα. ",
        ["cp1253", "iso8859-7"],
    ),
    "Hebrew": ("בבוקר אנשים רבים נוסעים לעבודה ברכבת וקוראים את העיתון בדרך. ", ["cp1255", "cp862"]),
    "Arabic": ("في الصباح يذهب كثير من الناس إلى العمل بالقطار ويقرؤون الجريدة في الطريق. ", ["cp1256"]),
    "Thai": ("ทุกเช้าผู้คนจำนวนมากเดินทางไปทำงานด้วยรถไฟและอ่านหนังสือพิมพ์ระหว่างทาง ", ["cp874"]),
    "Japanese": (JAPANESE, ["shift_jis", "euc_jp", "iso2022_jp"]),
    "Korean": ("매일 아침 많은 사람들이 기차를 타고 출근하면서 신문을 읽습니다. ", ["euc_kr"]),
    "Chinese": ("每天早上，很多人坐火车去上班，路上看看报纸，和朋友聊聊天。", ["gb2312", "gb18030"]),
    "Chinese in Taiwan": ("每天早上，很多人坐火車去上班，路上看看報紙，和朋友聊聊天。", ["big5"]),
}


def read(path: Path, data: bytes, **settings: str) -> tuple[list[str], list[int], list[str]]:
    """Return texts, counts of replaced bytes, and reasons of faults."""
    path.write_bytes(data)
    source = FilesSource(name="raw", path=str(path), **settings)
    records = list(formats.read(find_files(source).files[0], source, 10**7, Tally()))
    documents = [record for record in records if isinstance(record, Document)]
    faults = [record.reason for record in records if isinstance(record, Fault)]
    return [document.text for document in documents], [document.replaced for document in documents], faults


@pytest.mark.parametrize(("language", "encoding"), [(name, one) for name, (_, all_) in PROSE.items() for one in all_])
def test_prose_is_read_in_the_encoding_it_was_written_in(tmp_path: Path, language: str, encoding: str) -> None:
    text = PROSE[language][0] * 3
    assert decode(text.encode(encoding)) == (text, 0)
    assert decode((text * 2000).encode(encoding)) == (text * 2000, 0)
    for ending, settings in ((".txt", {}), (".txt", {"separator": "\n"}), (".csv", {}), (".jsonl", {})):
        lines = {".csv": f'text,n\n"{text}",1\n', ".jsonl": json.dumps({"text": text}, ensure_ascii=False) + "\n"}
        found, _, faults = read(tmp_path / f"a{ending}", lines.get(ending, text).encode(encoding), **settings)
        assert (found, faults) == ([text], []), ending


def test_cyrillic_capitals_are_not_hebrew_and_little_hebrew_is_uncertain() -> None:
    capitals = (RUSSIAN * 3).upper()
    assert decode(capitals.encode("cp866")) == (capitals, 0)
    few = "בבוקר אנשים רבים נוסעים"
    with pytest.raises(Undecodable, match="uncertain encoding, cp862 or cp866"):
        decode(few.encode("cp862"))
    assert decode(few.encode("cp862"), encoding="cp862") == (few, 0)


def test_an_accented_letter_inside_a_word_of_another_script_is_implausible() -> None:
    assert confidence("انبشرêة èبحâèâçه انهتساèêة انثابتة") < LEAST_CONFIDENCE  # Arabic of the Macintosh as cp1256
    assert confidence("المدرسة école والبيت à Paris") == 1


def test_arabic_of_dos_is_refused_and_can_be_set() -> None:
    """Its letters are presentation forms."""
    text = "".join(map(chr, (0xFED3, 0xFEF2, 0x20, 0xFE8D, 0xFEDF, 0xFEBB, 0xFE92, 0xFE8E, 0xFEA3, 0x20))) * 30
    data = text.encode("cp864", "ignore")
    with pytest.raises(Undecodable):
        decode(data)
    assert decode(data, encoding="cp864")[0] == data.decode("cp864")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-8"])
def test_unicode_is_read_with_a_mark_or_without(encoding: str) -> None:
    text = "One line of plain words.\n" * 20 + FRENCH
    assert decode(text.encode(encoding)) == (text, 0)


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        *(("French", "cp850"), ("French", "mac_roman"), ("German", "cp437"), ("Czech", "cp852")),
        *(("Russian", "mac_cyrillic"), ("Greek", "cp737"), ("Turkish", "cp857"), ("Korean", "johab")),
        ("German", "cp500"),
    ],
)
def test_an_encoding_that_cannot_be_guessed_is_refused_and_can_be_set(language: str, encoding: str) -> None:
    text = PROSE[language][0] * 20
    with pytest.raises(Undecodable, match=r"unknown encoding, perhaps \S+; set encoding"):
        decode(text.encode(encoding))
    assert decode(text.encode(encoding), encoding=encoding) == (text, 0)


def test_labels_mean_what_browsers_read() -> None:
    """A few lines of the table at encoding.spec.whatwg.org, and names that only Python has."""
    for label, codec in (
        *(("shift_jis", "cp932"), ("Windows-31J", "cp932"), ("x-sjis", "cp932"), ("iso-8859-1", "cp1252")),
        *(("ascii", "cp1252"), ("latin1", "cp1252"), ("iso-8859-9", "cp1254"), ("latin5", "cp1254")),
        *(("gb2312", "gb18030"), ("gbk", "gb18030"), ("x-gbk", "gb18030"), ("euc-kr", "cp949")),
        *(("ks_c_5601-1987", "cp949"), ("tis-620", "cp874"), ("big5", "big5hkscs"), ("utf8", "utf-8")),
        *(("cp437", "cp437"), ("mac_roman", "mac-roman"), ("macintosh", "mac_roman"), (" KOI8-R ", "koi8-r")),
        *(("hex", None), ("nonsense", None), ("", None)),
    ):
        assert codec_of(label) == codec, label


def test_characters_that_vendors_added_are_read() -> None:
    text = "値段は①から⑩まで、㈱髙島屋の～"
    assert decode(text.encode("cp932"), "shift_jis")[0] == text
    assert decode("똠방각하".encode("cp949"), "euc-kr")[0] == "똠방각하"
    assert decode((JAPANESE + "①").encode("euc_jis_2004"), "euc-jp") == (JAPANESE + "①", 0)
    assert decode(JAPANESE.encode("euc_jp") + b"\xad\xa1") == (JAPANESE + "①", 0)


def test_a_few_chinese_words_in_source_code_are_read() -> None:
    text = "#ifndef DCT_H\n/* 离散余弦变换 的 头文件，作者 某某 */\nvoid dct_0(float *in, float *out, int n);\n"
    assert decode(text.encode("gb2312")) == (text, 0)


def test_a_wrong_declaration_does_not_make_gibberish() -> None:
    assert decode(RUSSIAN.encode(), "iso-8859-1") == (RUSSIAN, 0), "UTF-8 shows what it is"
    assert decode((JAPANESE * 5).encode("euc_jp"), "shift_jis") == (JAPANESE * 5, 0)
    assert decode((RUSSIAN * 5).encode("cp1251"), "utf-8") == (RUSSIAN * 5, 0)


def test_an_encoding_late_in_a_file_is_found(tmp_path: Path) -> None:
    text = "plain ascii lines\n" * 10_000 + FRENCH
    assert decode(text.encode("cp1252")) == (text, 0)
    assert as_utf8(buffered(io.BytesIO(text.encode("cp1252")))).read().decode() == text
    rows = [{"text": "plain words"}] * 5000 + [{"text": FRENCH}]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("cp1252")
    assert read(tmp_path / "a.jsonl", data)[0][-1] == FRENCH
    documents, _, _ = run(tmp_path / "cut", files(tmp_path / "a.jsonl", shard_mb=0.01))
    assert len(documents) == 5001 and documents[-1]["text"] == FRENCH


def test_a_few_invalid_bytes_are_replaced_and_counted(tmp_path: Path) -> None:
    data = (RUSSIAN * 500).encode() + b"it\x92s\n" + (RUSSIAN * 500).encode()
    text = RUSSIAN * 500 + "it\ufffds\n" + RUSSIAN * 500
    assert read(tmp_path / "a.txt", data) == ([text], [1], [])
    page = samples.page(RUSSIAN * 5).replace(b"</h1>", b"</h1><p>" + RUSSIAN.encode() + b"it\x92s " + RUSSIAN.encode())
    [found], replaced, faults = read(tmp_path / "a.html", page)
    assert "it\ufffds" in found and (replaced, faults) == ([1], [])
    table = b"text,n\n" + RUSSIAN.encode() + b"it\x92s,1\n" + RUSSIAN.encode() + b",2\n"
    for ending, data, settings in (
        (".tsv", table.replace(b",", b"\t").replace(b"\t \xd0\xba", b", \xd0\xba"), {}),
        (".txt", RUSSIAN.encode() + b"it\x92s|" + RUSSIAN.encode(), {"separator": "|"}),
        (".xml", b"<doc>" + RUSSIAN.encode() + b"it\x92s</doc><doc>" + RUSSIAN.encode() + b"</doc>", {}),
    ):
        found_texts, replaced, faults = read(tmp_path / f"b{ending}", data, **settings)
        assert [one.strip() for one in found_texts] == [RUSSIAN + "it\ufffds", RUSSIAN.strip()], ending
        assert (replaced, faults) == ([1, 0], []), ending


def test_a_stray_byte_before_the_first_utf8_does_not_decide(tmp_path: Path) -> None:
    lines = [b"it\x92s", *[b"plain words"] * 20_000, *[RUSSIAN.encode()] * 2000]
    for first in (0, 10_000):
        moved = [*lines[1 : first + 1], lines[0], *lines[first + 1 :]]
        data = b"".join(b'{"text": "%s"}\n' % line for line in moved)
        texts, _, _ = read(tmp_path / "a.jsonl", data)
        assert texts[-2000:] == [RUSSIAN] * 2000


def test_too_many_invalid_bytes_are_a_fault(tmp_path: Path) -> None:
    data = (RUSSIAN + "б\u0431\u0432").encode() + b"\xff" * 9
    assert read(tmp_path / "a.txt", data) == ([], [], [f"invalid bytes at 9 of {len(RUSSIAN) + 12} characters"])


@pytest.mark.parametrize(("data", "reason"), [(b"\x7fELF\0\0\1\2" * 100, "NUL"), (bytes(range(1, 256)) * 4, "binary")])
def test_what_is_not_text_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        decode(data)


def test_the_setting_decides_and_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    text = "caf\xe9"
    assert read(tmp_path / "a.txt", text.encode("cp437"), encoding="cp437")[0] == [text]
    assert read(tmp_path / "a.txt", RUSSIAN.encode(), encoding="cp437")[0] == [RUSSIAN.encode().decode("cp437")]
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbf" + RUSSIAN.encode(), encoding="cp437")[0] == [RUSSIAN]
    with pytest.raises(UserError, match="raw: encoding 'shiftjs' is unknown; use a name such as"):
        read(tmp_path / "a.txt", b"a", encoding="shiftjs")


def test_an_xml_file_and_a_chapter_declare_their_encoding(tmp_path: Path) -> None:
    data = '<?xml version="1.0" encoding="cp437"?><doc>déjà vu</doc>'.encode("cp437")
    assert read(tmp_path / "a.xml", data)[0] == ["déjà vu"]
