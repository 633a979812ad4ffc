"""Repetition within and between texts."""

from collections.abc import Sequence

MOST_TEXTS = 100
"""Texts that Self-BLEU compares with each other: 10,000 comparisons, a second or two."""


def repeated_share(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Return the mean share of n-grams that repeat an earlier one (seq-rep-n, Welleck et al. 2020)."""
    shares = [1 - len(set(grams)) / len(grams) for grams in (_ngrams(sequence, n) for sequence in sequences) if grams]
    return sum(shares) / max(1, len(shares))


def distinct_share(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Return the share of different n-grams among those of all sequences (after Li et al. 2016)."""
    grams = [gram for sequence in sequences for gram in _ngrams(sequence, n)]
    return len(set(grams)) / max(1, len(grams))


def self_bleu(texts: Sequence[str]) -> float | None:
    """Return the mean BLEU-4, 0 to 100, of each of the first 100 texts against the others (Zhu et al. 2018).

    Similar texts have a high Self-BLEU. Words and smoothing are those of `overlap.bleu`. None for a single text.
    """
    from nltk.tokenize import wordpunct_tokenize  # with SciPy and scikit-learn it takes a second
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    chosen = [wordpunct_tokenize(text) for text in texts[:MOST_TEXTS]]
    if len(chosen) < 2:
        return None
    smoothing = SmoothingFunction().method3
    scores = [
        sentence_bleu(chosen[:place] + chosen[place + 1 :], text, smoothing_function=smoothing)
        for place, text in enumerate(chosen)
    ]
    return 100 * float(sum(scores)) / len(scores)


def _ngrams(sequence: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(sequence[start : start + n]) for start in range(len(sequence) - n + 1)]
