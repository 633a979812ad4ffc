"""BLEU against sacrebleu, ROUGE and repetition against values from the definitions."""

import random

import numpy as np
import pytest
import sacrebleu

from homegrown.evaluation.diversity import distinct_share, repeated_share, self_bleu
from homegrown.evaluation.overlap import bleu, bleu_counts, bleu_of_counts, bleu_of_one, rouge, words


@pytest.mark.parametrize("seed", range(8))
def test_bleu_is_that_of_sacrebleu(seed: int) -> None:
    from nltk.tokenize import wordpunct_tokenize

    dice = random.Random(seed)
    vocabulary = ["the", "cat,", "dog", "sat", "on;", "a", "mat", "(большой)", "größer", "3.5", "it's"][: 4 + seed]
    texts = [" ".join(dice.choices(vocabulary, k=dice.randint(4, 20))) for _ in range(12)]
    references = [" ".join(dice.choices(vocabulary, k=dice.randint(4, 20))) for _ in range(12)]
    spaced = [[" ".join(wordpunct_tokenize(text)) for text in side] for side in (texts, references)]
    expected = sacrebleu.corpus_bleu(spaced[0], [spaced[1]], tokenize="none", smooth_method="exp", force=True)
    assert expected.score > 0
    assert bleu(references, texts) == pytest.approx(expected.score, rel=1e-6)


def test_bleu_with_no_shared_4_gram_is_smoothed_as_by_sacrebleu() -> None:
    reference, text = "a b c d e f g", "a b c x e f y z"
    expected = sacrebleu.sentence_bleu(text, [reference], tokenize="none", smooth_method="exp")
    assert bleu([reference], [text]) == pytest.approx(expected.score, rel=1e-6)
    assert bleu_of_one(reference, text) == pytest.approx(expected.score, rel=1e-6)


@pytest.mark.parametrize("length", [2, 4, 30])
def test_bleu_of_summed_counts_is_that_of_nltk(length: int) -> None:
    dice = random.Random(length)
    for _ in range(30):
        pair = [[" ".join(dice.choices("abcdef", k=dice.randint(1, length))) for _ in range(5)] for _ in range(2)]
        sums = np.array([bleu_counts(*one) for one in zip(*pair, strict=True)]).sum(axis=0, keepdims=True)
        assert bleu_of_counts(sums) == pytest.approx(bleu(*pair))


def test_self_bleu_is_that_of_sacrebleu_with_all_others_as_references() -> None:
    dice = random.Random(3)
    texts = [" ".join(dice.choices("abcd", k=dice.randint(5, 15))) for _ in range(8)]
    scores = [
        sacrebleu.sentence_bleu(text, texts[:place] + texts[place + 1 :], tokenize="none", smooth_method="exp").score
        for place, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(sum(scores) / len(scores), rel=1e-6)
    assert self_bleu(["one two three four five"] * 3) == pytest.approx(100)
    assert self_bleu(["alone"]) is None


def test_bleu_at_its_ends() -> None:
    assert bleu(["one two three four five"], ["one two three four five"]) == pytest.approx(100)
    assert bleu(["one two three four"], ["five six seven eight"]) == 0
    assert bleu(["one two three four"], [""]) == 0


def test_rouge_is_that_of_its_definition() -> None:
    found = rouge("The cat sat on the mat.", "the cat on the mat")
    assert found.rouge_1 == pytest.approx(100 * 2 * (5 / 5) * (5 / 6) / (5 / 5 + 5 / 6))
    assert found.rouge_2 == pytest.approx(100 * 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert found.rouge_l == pytest.approx(100 * 2 * (5 / 5) * (5 / 6) / (5 / 5 + 5 / 6))
    assert rouge("a b c d", "d c b a").rouge_l == pytest.approx(25)
    assert rouge("a b", "").rouge_1 == 0


def test_rouge_lsum_is_the_papers_example() -> None:
    # Lin 2004, section 3.2: 4 of the reference's 5 words are in the union of the subsequences of both sentences.
    found = rouge("w1 w2 w3 w4 w5", "w1 w3 w8 w9 w5. w1 w2 w6 w7 w8")
    assert found.rouge_lsum == pytest.approx(100 * 2 * (4 / 5) * (4 / 10) / (4 / 5 + 4 / 10))
    assert found.rouge_l == pytest.approx(100 * 2 * (3 / 5) * (3 / 10) / (3 / 5 + 3 / 10))


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("Мы читаем книгу", "мы читаем письмо", 200 / 3),
        ("हिन्दी में लिखा", "हिन्दी में लिखा", 100),
        ("我爱北京", "我爱南京", 75),
        ("ภาษาไทย", "ภาษาไทย", 100),
    ],
)
def test_rouge_of_other_scripts(reference: str, text: str, expected: float) -> None:
    assert rouge(reference, text).rouge_1 == pytest.approx(expected)


def test_words() -> None:
    assert words("Don't GROẞ_x1, हिन्दी 語言ab") == ["don", "t", "gross", "x1", "हिन्दी", "語", "言", "ab"]


def test_repetition_is_that_of_its_definition() -> None:
    assert repeated_share([[1, 2, 3, 4, 1, 2, 3, 4, 1]], 4) == pytest.approx(1 - 4 / 6)
    assert repeated_share([[7] * 7, [1, 2, 3, 4], [1, 2]], 4) == pytest.approx((3 / 4 + 0) / 2)
    assert repeated_share([[]], 4) == 0
    assert distinct_share([[1, 2, 1, 2], [1, 2]], 2) == pytest.approx(2 / 4)
    assert distinct_share([[], [1]], 2) == 0
