"""How much a text shares with a reference (BLEU, ROUGE), and with itself (repetition)."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from nltk.tokenize import wordpunct_tokenize
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from rouge_score.rouge_scorer import RougeScorer

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that put no blanks between words: every character counts as one."""


def bleu(references: Sequence[str], texts: Sequence[str]) -> float:
    """Return corpus BLEU-4 (Papineni et al. 2002), 0 to 100, of `texts` with one reference each.

    Words are those of nltk's `wordpunct_tokenize`; smoothing is exponential (nltk's method 3, the one of mteval-v13a
    and sacrebleu).
    """
    score: float = corpus_bleu(
        [[wordpunct_tokenize(reference)] for reference in references],
        [wordpunct_tokenize(text) for text in texts],
        smoothing_function=SmoothingFunction().method3,
    )
    return 100 * score


@dataclass(frozen=True)
class Rouge:
    """F1 of shared words, shared pairs of words and the longest common subsequence (Lin 2004), 0 to 100."""

    rouge_1: float
    rouge_2: float
    rouge_l: float


class _Words:
    """What rouge-score asks of a tokenizer; its own drops all but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


_SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())


def rouge(reference: str, text: str) -> Rouge:
    """Return the ROUGE of one text; words are those of `words`, without stemming."""
    scores = _SCORER.score(reference, text)
    return Rouge(*(100 * scores[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")))


def words(text: str) -> list[str]:
    """Return the words of a text in any script, case folded: runs of letters, marks and digits."""
    runs = ("".join(run) for is_word, run in groupby(text.casefold(), _in_word) if is_word)
    return [word for run in runs for word in _split_unspaced(run)]


def repeated_share(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Return the mean over sequences of the share of n-grams that occurred before (seq-rep-n, Welleck et al. 2020)."""
    shares = [1 - len(set(grams)) / len(grams) for grams in (_ngrams(sequence, n) for sequence in sequences) if grams]
    return sum(shares) / max(1, len(shares))


def distinct_share(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Return the share of different n-grams among those of all sequences together (after Li et al. 2016)."""
    grams = [gram for sequence in sequences for gram in _ngrams(sequence, n)]
    return len(set(grams)) / max(1, len(grams))


def _ngrams(sequence: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(sequence[start : start + n]) for start in range(len(sequence) - n + 1)]


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
