"""Language identification: the kernels against py3langid itself, and the declarations of human rights."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.corpus_quality import language_code
from homegrown.corpus.languages import UNKNOWN, identify, known_languages

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"
SENTENCES = {
    "en": "The committee met on Tuesday and decided to publish the whole report before the end of the year.",
    "de": "Der Ausschuss hat am Dienstag beschlossen, den ganzen Bericht noch vor Ende des Jahres zu drucken.",
    "fr": "La commission s'est réunie mardi et a décidé de publier le rapport entier avant la fin de l'année.",
    "ru": "Комитет собрался во вторник и решил опубликовать полный отчёт до конца года.",
    "ar": "اجتمعت اللجنة يوم الثلاثاء وقررت نشر التقرير كاملا قبل نهاية العام.",
    "hi": "समिति की बैठक मंगलवार को हुई और उसने साल के अंत से पहले पूरी रिपोर्ट प्रकाशित करने का निर्णय लिया।",
    "zh": "委员会星期二开会，决定在年底之前发表完整的报告。",
    "ja": "委員会は火曜日に開かれ、年末までに報告書の全文を公表することを決めました。",
    "th": "คณะกรรมการประชุมเมื่อวันอังคารและตัดสินใจเผยแพร่รายงานฉบับสมบูรณ์ก่อนสิ้นปี",
    "ko": "위원회는 화요일에 모여 연말 전에 보고서 전체를 발표하기로 결정했습니다.",
}


def test_a_sentence_is_enough() -> None:
    found = identify(pa.array(list(SENTENCES.values())), ["de"])
    assert found.codes == list(SENTENCES)
    assert found.scripts == ["Latn", "Latn", "Latn", "Cyrl", "Arab", "Deva", "Hani", "Jpan", "Thai", "Hang"]
    assert found.asked[1] == found.probabilities[1] and (np.delete(found.asked, 1) < 0.5).all()


def test_the_kernels_compute_what_py3langid_does() -> None:
    """Where CLD2 and the scripts have no say: the same probabilities, up to the rounding of the weights."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    oracle = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    texts = [SENTENCES["en"][:start] for start in (20, 40, 90)] + [SENTENCES[code] for code in ("de", "fr", "ru", "ar")]
    found = identify(pa.array(texts), [])
    for text, code, probability in zip(texts, found.codes, found.probabilities, strict=True):
        best, wanted = oracle.classify(text)
        assert code == best and probability == pytest.approx(wanted, abs=0.03)


def test_windows_see_the_whole_document() -> None:
    """The language of most of the text counts, not that of its first characters."""
    text = SENTENCES["en"] * 12 + SENTENCES["de"] * 120
    assert identify(pa.array([text, text.upper()]), []).codes == ["de", "de"]


def test_odd_texts_have_an_answer() -> None:
    texts = pa.array(["skipped", "", "1234 5678 !?", "\U0010ffff\U0001f600", "ަދިވެހި ރާއްޖެ", "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ"])
    found = identify(texts.slice(1), ["en"])
    assert found.codes == [UNKNOWN, UNKNOWN, UNKNOWN, "dv", "mn"]
    assert found.scripts == ["", "", "", "Thaa", "Mong"]
    assert identify(texts.slice(0, 0), []).codes == []


@pytest.mark.skipif(not CORPORA.is_dir(), reason="../shared/corpora is not there")
def test_declarations_in_126_languages() -> None:
    with gzip.open(CORPORA / "udhr-languages.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    known = set(known_languages())
    coded = [(language_code(row["lang"]), row["text"]) for row in rows]
    coded = [(code, text) for code, text in coded if code in known]
    found = identify(pa.array([text for _, text in coded]), [])
    right = np.mean([code == guess for (code, _), guess in zip(coded, found.codes, strict=True)])
    assert len(coded) == 126 and right >= 0.96
