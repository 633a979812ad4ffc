"""Words of scripts without spaces, in rules and in decontamination; marks are part of letters."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.config.filter import FilterSettings
from homegrown.corpus import segmenter
from homegrown.corpus.contamination import contaminated, runs_of_files
from homegrown.corpus.quality import signals
from homegrown.corpus.quality.texts import take_apart

OFF = {"min_alphabetic_share": None, "gopher_quality": None, "gopher_repetition": None, "c4": None, "fineweb": None}
LAX = FilterSettings.model_validate({"min_characters": 0, "max_characters": 10**9, **OFF})
THAI = "นักเรียนทุกคนควรอ่านหนังสืออย่างน้อยวันละหนึ่งชั่วโมงเพื่อพัฒนาความคิดและความเข้าใจโลกรอบตัว"


def words(text: str) -> list[str]:
    """Return the words of a text by the lengths that the rules see."""
    lengths = take_apart(pa.array(["before", text]).slice(1)).words
    visible = "".join(text.split())
    ends = np.cumsum(lengths.lengths[: lengths.starts[1]]).tolist()
    return [visible[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我们在北京大学学习历史。", ["我们", "在", "北京", "大学", "学习", "历史", "。"]),
        ("日本語のテキスト「です」", ["日本語", "の", "テキスト", "「", "です", "」"]),
        ("กรุงเทพมหานครเป็นเมืองหลวง ของไทย", ["กรุงเทพมหานคร", "เป็น", "เมือง", "หลวง", "ของ", "ไทย"]),
        ("ຂ້ອຍຮັກປະເທດລາວ", ["ຂ້ອຍ", "ຮັກ", "ປະເທດ", "ລາວ"]),
        ("ព្រះរាជាណាចក្រកម្ពុជា", ["ព្រះរាជាណាចក្រ", "កម្ពុជា"]),
        ("A股2024年 x", ["A", "股", "2024", "年", "x"]),
        ("한국어는 띄어 쓴다.", ["한국어는", "띄어", "쓴다."]),
        ("संयुक्त राष्ट्र", ["संयुक्त", "राष्ट्र"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(st.sampled_from("我们学习历史กขเมือง日本のテx1 \n。,é😀"), max_size=60))
def test_words_are_those_of_icu_in_runs_of_unspaced_characters(text: str) -> None:
    from icu4py.breakers import WordBreaker

    expected = []
    for token in text.split():
        for run in re.findall(r"[我们学习历史กขเมือง日本のテ]+|[^我们学习历史กขเมือง日本のテ]+", token):
            unspaced = run[0] in "我们学习历史กขเมือง日本のテ"
            expected += list(WordBreaker(run, "en")) if unspaced else [run]
    assert words(text) == expected


def test_marks_are_part_of_letters() -> None:
    texts = ["संयुक्त राष्ट्र", "ภาษาไทยที่เขียน", "e\u0301te\u0301", "❤\ufe0f", "1\ufe0f\u20e3"]
    measured, _ = signals.measure(pa.array(texts), pa.array(texts), LAX)
    assert measured["alphabetic_share"].to_pylist() == [1, 1, 1, 0, 0]
    assert pa.chunked_array([measured["gopher_quality"].chunk(0).field("alphabetic_words")]).to_pylist() == [
        1,
        1,
        1,
        0,
        0,
    ]


def test_thirteen_words_contaminate_and_one_does_not(tmp_path: Path) -> None:
    """A name that fills 13 characters is one word; a copied sentence is many."""
    file = tmp_path / "questions.jsonl"
    rows = [{"question": "สนามบินสุวรรณภูมิอยู่ใกล้กรุงเทพมหานครใช่หรือไม่"}, {"question": THAI}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = ["เขาเดินทางไปกรุงเทพมหานครเมื่อวานนี้", f"ครูบอกว่า {THAI} เสมอ", "กรุงเทพมหานคร " * 20]
    found = list(contaminated(pa.array(texts), runs_of_files([str(file)])))
    assert [(row, number) for row, number, _ in found] == [(1, 0)]
    assert found[0][2].startswith("นักเรียน") and found[0][2] in THAI


def test_a_missing_segmenter_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array(["English — “only”", "我们", "हिन्दी", THAI])
    assert not segmenter.unsegmented(texts).any()
    monkeypatch.setattr(segmenter, "version", lambda: None)
    assert segmenter.unsegmented(texts).tolist() == [False, True, False, True]
    assert words("我们 x") == ["我", "们", "x"]
    measured, _ = signals.measure(texts, texts, LAX)
    assert measured["unsegmented"].to_pylist() == [False, True, False, True]
