"""Quality by example: how much a document is like documents that the user calls good, rather than like the corpus.

DCLM's recipe (Li et al. 2024): a linear classifier of hashed words and pairs of words, of good documents against a
sample of the corpus itself. The value of a document is its percentile in the corpus, so that a threshold of 0.9 keeps
about a tenth of it. The classifier is a logistic regression by AdaGrad; its arrays are all that is kept of it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled
from homegrown.corpus.quality.texts import Texts, Values, take_apart
from homegrown.util.errors import UserError

FORMATS = (".txt", ".md", ".jsonl", ".parquet")
MOST_GOOD, MOST_OTHERS = 10_000, 20_000
"""Documents to learn from: good ones, and a sample of the corpus."""

_LEAST_GOOD = 20
_BUCKETS = 2**16
_MOST_WORDS = 2_000  # of a document
_LONGEST = 50_000  # characters of a document to learn from
_EPOCHS, _RATE, _DECAY = 5, 0.5, 1e-5
_HELD_OUT = 5  # one document of so many


@dataclass(frozen=True)
class Classifier:
    """The weights of the buckets with the bias last, and the sorted scores of held-out documents of the corpus."""

    weights: NDArray[np.float32]
    scores: NDArray[np.float32]
    auc: float
    """Area under the curve of held-out good documents against held-out ones of the corpus."""

    def percentiles(self, texts: Texts) -> Values:
        """Return the percentile of each of n split texts, from 0 to 1: (n,)."""
        places = np.searchsorted(self.scores, _scores(_features_of(texts), self.weights), side="right")
        percentiles: Values = places / len(self.scores)
        return percentiles


def percentile(found: Values) -> Values:
    """Return the percentile in the corpus of the likeness to good documents. Published (DCLM): at least 0.9."""
    return found


def files(folder: str) -> list[Path]:
    """Return the files of good documents; raise UserError for what is not a folder, and an empty one."""
    if not Path(folder).is_dir():
        raise UserError(f"filter.example.good: {folder} is not a folder; give one with your good documents.")
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in FORMATS and path.is_file())
    if not found:
        raise UserError(f"filter.example.good: {folder} has no file in a supported format ({', '.join(FORMATS)}).")
    return found


def good_texts(folder: str) -> list[str]:
    """Return at most `MOST_GOOD` good documents, chosen by a hash; raise UserError if there are too few.

    A file of plain text is a document; lines of .jsonl and rows of .parquet have it in `text`.
    """
    texts = chosen((text for path in files(folder) for text in _read(path)), MOST_GOOD)
    if len(texts) < _LEAST_GOOD:
        raise UserError(
            f"filter.example.good: {folder} has {len(texts)} different documents with text; it needs at least "
            f"{_LEAST_GOOD}."
        )
    return texts


def chosen(texts: Iterator[str] | Sequence[str], most: int) -> list[str]:
    """Return at most so many different texts in the order of their hashes, cut to a length to learn from."""
    hashes = {
        xxhash.xxh3_64_intdigest(text.encode(errors="replace")): text[:_LONGEST] for text in texts if text.strip()
    }
    return [hashes[key] for key in sorted(hashes)[:most]]


def fit(good: Sequence[str], others: Sequence[str]) -> Classifier:
    """Return a classifier of good documents against others, both in random order."""
    texts = [*good, *others]
    features = _features_of(take_apart(pa.array(texts, pa.string())))
    is_good = np.arange(len(texts)) < len(good)
    places = np.where(is_good, np.arange(len(texts)), np.arange(len(texts)) - len(good))
    is_held_out = places % _HELD_OUT == 0
    order = np.argsort([xxhash.xxh3_64_intdigest(f"order\0{number}") for number in range(len(texts))], kind="stable")
    share = np.count_nonzero(is_good) / len(texts)
    costs = np.where(is_good, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)  # both kinds count alike
    weights = np.zeros(_BUCKETS + 1, np.float32)
    squares = np.full(_BUCKETS + 1, 1e-6, np.float32)
    for _ in range(_EPOCHS):
        _learn(*features, order[~is_held_out[order]], is_good, costs, weights, squares)
    scores = _scores(features, weights)
    own, rest = np.sort(scores[is_good & is_held_out]), np.sort(scores[~is_good & is_held_out])
    below = np.searchsorted(rest, own, side="left") + np.searchsorted(rest, own, side="right")
    return Classifier(weights, rest, float(below.mean() / 2 / len(rest)))


class _Features(NamedTuple):
    """Buckets and values of all documents in order; those of document i are `starts[i]` to `starts[i + 1]`."""

    starts: NDArray[np.int64]
    buckets: NDArray[np.int32]
    values: NDArray[np.float32]


def _features_of(texts: Texts) -> _Features:
    words = texts.words
    most = int(np.minimum(np.diff(words.starts), _MOST_WORDS).sum()) * 2
    features = _Features(np.zeros(len(words.starts), np.int64), np.empty(most, np.int32), np.empty(most, np.float32))
    _extract(words.starts, words.hashes, *features)
    return features


def _scores(features: _Features, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    scores = np.empty(len(features.starts) - 1, np.float32)
    _score(*features, weights, scores)
    return scores


def _read(path: Path) -> Iterator[str]:
    kind, number = path.suffix.lower(), 0
    try:
        if kind == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(1024, columns=["text"]):
                yield from (_string(text) for text in batch["text"].to_pylist() if text is not None)
        elif kind == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    number += 1
                    if line.strip():
                        yield _string(_object(line)["text"])
        else:
            yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"filter.example.good: {path} is not UTF-8 text ({error}); convert it.") from error
    except OSError as error:
        raise UserError(f"filter.example.good: {path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError) as error:  # pa.ArrowInvalid is a ValueError
        place = f"{path}, line {number}, has no key" if number else f"{path} has no column"
        raise UserError(f"filter.example.good: {place} 'text' with a text ({error}).") from error


def _object(line: str) -> dict[str, object]:
    row: object = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError(f"{type(row).__name__} instead of an object")
    return row


def _string(value: object) -> str:
    """Return a text that is valid Unicode; raise TypeError for another value."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a text")
    return value.encode(errors="replace").decode()


@compiled
def _extract(
    words: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    buckets: NDArray[np.int32],
    values: NDArray[np.float32],
) -> None:
    """Fill in the buckets of words and pairs, each once with 1 + log of its count, of length 1 for a document."""
    place = 0
    for document in range(words.size - 1):
        first = words[document]
        count = min(words[document + 1] - first, _MOST_WORDS)
        found = np.empty(max(0, 2 * count - 1), np.int32)
        for i in range(count):
            word = hashes[first + i]
            found[i] = (word ^ (word >> np.uint64(32))) % np.uint64(_BUCKETS)
            if i:
                pair = hashes[first + i - 1] * np.uint64(0x9E3779B97F4A7C15) + word
                pair ^= pair >> np.uint64(29)
                found[count + i - 1] = (pair ^ (pair >> np.uint64(32))) % np.uint64(_BUCKETS)
        found.sort()
        begin = place
        norm = 0.0
        i = 0
        while i < found.size:
            end = i
            while end < found.size and found[end] == found[i]:
                end += 1
            value = 1 + np.log(end - i)
            buckets[place], values[place] = found[i], value
            norm += value * value
            place += 1
            i = end
        for i in range(begin, place):
            values[i] /= np.sqrt(norm)
        starts[document + 1] = place


@compiled
def _learn(
    starts: NDArray[np.int64],
    buckets: NDArray[np.int32],
    values: NDArray[np.float32],
    order: NDArray[np.int64],
    is_good: NDArray[np.bool_],
    costs: NDArray[np.float32],
    weights: NDArray[np.float32],
    squares: NDArray[np.float32],
) -> None:
    """Take one AdaGrad step for each document of `order`."""
    bias = weights.size - 1
    for document in order:
        score = weights[bias]
        for i in range(starts[document], starts[document + 1]):
            score += weights[buckets[i]] * values[i]
        slope = costs[document] * (1 / (1 + np.exp(-score)) - is_good[document])
        for i in range(starts[document], starts[document + 1]):
            bucket = buckets[i]
            gradient = slope * values[i] + _DECAY * weights[bucket]
            squares[bucket] += gradient * gradient
            weights[bucket] -= _RATE * gradient / np.sqrt(squares[bucket])
        squares[bias] += slope * slope
        weights[bias] -= _RATE * slope / np.sqrt(squares[bias])


@compiled
def _score(
    starts: NDArray[np.int64],
    buckets: NDArray[np.int32],
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    for document in range(scores.size):
        score = weights[weights.size - 1]
        for i in range(starts[document], starts[document + 1]):
            score += weights[buckets[i]] * values[i]
        scores[document] = score
