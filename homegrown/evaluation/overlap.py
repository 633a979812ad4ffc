"""Overlap of completions with references: BLEU and ROUGE."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from homegrown.evaluation.bootstrap import Interval, interval
from homegrown.evaluation.sample import SENTENCE_END

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

BLEU_METHOD = (
    "BLEU-4: nltk's corpus_bleu and the mean of its sentence_bleu, with wordpunct_tokenize and exponential smoothing "
    "(method 3)."
)
ROUGE_METHOD = (
    "ROUGE: F1 of rouge-score on case-folded words of any script, without stemming; Lsum splits sentences at end marks "
    "and line breaks."
)

# nltk, also of rouge-score, is imported where it counts: with SciPy and scikit-learn it takes two seconds.
_ORDERS = 4
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts without spaces between words: every character counts as a word."""


def bleu(references: Sequence[str], texts: Sequence[str]) -> float:
    """Return corpus BLEU-4 (Papineni et al. 2002), 0 to 100, of `texts` with one reference each.

    Words are those of nltk's `wordpunct_tokenize`; smoothing is exponential (nltk's method 3, the one of mteval-v13a
    and sacrebleu).
    """
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    score: float = corpus_bleu(
        [[wordpunct_tokenize(reference)] for reference in references],
        [wordpunct_tokenize(text) for text in texts],
        smoothing_function=SmoothingFunction().method3,
    )
    return 100 * score


def bleu_of_one(reference: str, text: str) -> float:
    """Return sentence BLEU-4, 0 to 100, with the words and the smoothing of `bleu`."""
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    score: float = sentence_bleu(
        [wordpunct_tokenize(reference)],
        wordpunct_tokenize(text),
        smoothing_function=SmoothingFunction().method3,
    )
    return 100 * score


def bleu_interval(references: Sequence[str], texts: Sequence[str], seed: int) -> Interval | None:
    """Return the interval of `bleu` over other documents (Koehn 2004); None for one document."""
    columns = np.array([bleu_counts(reference, text) for reference, text in zip(references, texts, strict=True)])
    return interval(columns, bleu_of_counts, seed)


def bleu_counts(reference: str, text: str) -> list[float]:
    """Return a text's counts for corpus BLEU: shared and all n-grams of orders 1 to 4, and the words of both texts."""
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.bleu_score import modified_precision

    expected, words = wordpunct_tokenize(reference), wordpunct_tokenize(text)
    found = [modified_precision([expected], words, n) for n in range(1, _ORDERS + 1)]
    shared, all_of_them = [one.numerator for one in found], [one.denominator for one in found]
    return [*shared, *all_of_them, len(words), len(expected)]


def bleu_of_counts(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return BLEU, 0 to 100, of each row of summed counts [rows, 10], by nltk's formula for many rows."""
    shared, everything, words, expected = sums[:, :_ORDERS], sums[:, _ORDERS:-2], sums[:, -2], sums[:, -1]
    halvings = np.cumsum(shared == 0, axis=1)
    precision = np.where(shared > 0, shared, 0.5**halvings) / everything
    brevity = np.minimum(0, 1 - expected / np.maximum(words, 1))
    score = 100 * np.exp(np.log(precision).mean(axis=1) + brevity)
    return np.where(shared[:, 0] > 0, score, 0)


@dataclass(frozen=True)
class Rouge:
    """F1 of shared words, shared word pairs and the longest common subsequence (Lin 2004), 0 to 100.

    `rouge_l` takes a text as one sequence, `rouge_lsum` takes the union over its sentences.
    """

    rouge_1: float
    rouge_2: float
    rouge_l: float
    rouge_lsum: float


class _Words:
    """A tokenizer for rouge-score, whose own keeps only a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], tokenizer=_Words())


def rouge(reference: str, text: str) -> Rouge:
    """Return the ROUGE of one text, on `words`, without stemming."""
    scores = _scorer().score(_sentences(reference), _sentences(text))
    return Rouge(*(100 * scores[name].fmeasure for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")))


def _sentences(text: str) -> str:
    """Return the text with a line break after each sentence, as rougeLsum expects."""
    return SENTENCE_END.sub(lambda match: match[0] + "\n", text)


def words(text: str) -> list[str]:
    """Return the words of a text in any script, case folded: runs of letters, marks and digits."""
    runs = ("".join(run) for is_word, run in groupby(text.casefold(), _in_word) if is_word)
    return [word for run in runs for word in _split_unspaced(run)]


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)


def _split_unspaced(run: str) -> list[str]:
    pieces: list[str] = []
    for unspaced, characters in groupby(run, _is_unspaced):
        part = "".join(characters)
        pieces += part if unspaced else [part]
    return pieces
