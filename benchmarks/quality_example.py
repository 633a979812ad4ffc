"""Quality by example against fastText and scikit-learn: AUC and speed on passages of two years of Wikipedia.

    python -m benchmarks.quality_example

All learn passages of one dump against those of another, by one half, and are judged on the other half: a difference of
style and selection that no single word gives away. Then the same classifiers judge texts of other origins, as good
(books, and later revisions of articles that no learned dump has) or not (children's stories, documentation of installed
packages). scikit-learn has the same features (words and pairs of words, 2^18 and 2^16 buckets) and its logistic
regression (SGDClassifier, log_loss); fastText has words and pairs of words too, and is in the peers' environment
(`python -m benchmarks.peers`). One thread each, processor seconds.
"""

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score

from benchmarks.corpus_quality import docstrings
from benchmarks.peers import call, check
from homegrown.corpus.quality.example import Classifier, chosen, fit
from homegrown.corpus.quality.texts import take_apart

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
LENGTH = 600  # characters of a passage
MOST = 6_000  # passages of a kind
Judged = list[tuple[list[str], list[str]]]  # pairs of good texts and others


def passages(name: str, without: frozenset[str] = frozenset()) -> list[str]:
    """Return passages of articles, in the order of their hashes, but for those with some titles."""
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return ends([row["text"] for row in rows if row.get("title") not in without])


def ends(texts: list[str]) -> list[str]:
    """Return the last passages of texts that have one, in the order of their hashes."""
    return chosen([text[-LENGTH:] for text in texts if len(text) > LENGTH], MOST)


def pieces(text: str) -> list[str]:
    """Return the passages of a long text."""
    return [text[start : start + LENGTH] for start in range(0, len(text) - LENGTH, LENGTH)]


def other_texts() -> tuple[list[str], list[str]]:
    """Return passages of other origins: books and revisions of articles, and stories and documentation."""
    with gzip.open(CORPORA / "wikipedia-2015.jsonl.gz", "rt", encoding="utf-8") as lines:
        titles = frozenset(json.loads(line)["title"] for line in lines)
    texts = [path.read_text("utf-8", errors="replace") for path in sorted((CORPORA / "gutenberg").iterdir())]
    books = [piece for text in texts for piece in pieces(text)]
    stories = pieces((CORPORA / "tinystories-sample.txt").read_text("utf-8").replace("<|endoftext|>", ""))
    good = [*chosen(books, 500), *passages("wikipedia-revisions.jsonl.gz", titles)]
    return good, [*chosen(stories, 500), *ends([text for text in docstrings() if " at 0x" not in text])[:500]]


def main() -> None:
    """Print a line of JSON for each classifier."""
    check()
    good, others = passages("wikipedia-2015.jsonl.gz"), passages("wikipedia-stubs.jsonl.gz")
    most = min(len(good), len(others))
    learned, tested = (good[: most // 2], others[: most // 2]), (good[most // 2 : most], others[most // 2 : most])
    judged: Judged = [tested, other_texts()]
    texts = [text for pair in judged for kind in pair for text in kind]

    fit(good[:50], others[:50])  # compiles
    began = time.process_time()
    classifier: Classifier = fit(*learned)
    fitted = time.process_time()
    scores = classifier.percentiles(take_apart(pa.array(texts)))
    report("homegrown", judged, scores, fitted - began, time.process_time() - fitted)

    for bits in (16, 18):
        vectors = HashingVectorizer(n_features=2**bits, ngram_range=(1, 2), lowercase=False, token_pattern=r"\S+")
        model = SGDClassifier(loss="log_loss", max_iter=5, tol=None, random_state=1)
        began = time.process_time()
        model.fit(vectors.transform([*learned[0], *learned[1]]), np.repeat([1, 0], [len(each) for each in learned]))
        fitted = time.process_time()
        scores = model.decision_function(vectors.transform(texts))
        report(f"scikit-learn, 2^{bits} buckets", judged, scores, fitted - began, time.process_time() - fitted)

    for epochs, rate in ((5, 0.1), (25, 0.5)):  # DCLM's, which are the defaults, and those of fastText's tutorial
        kinds = [kind for pair in judged for kind in pair]
        found = call("fasttext_scores", good=learned[0], others=learned[1], judged=kinds, epochs=epochs, rate=rate)
        seconds = found["seconds_to_learn"], found["seconds_to_score"]
        report(f"fastText, {epochs} epochs, rate {rate}", judged, np.concatenate(found["scores"]), *seconds)


def report(name: str, judged: Judged, scores: object, learning: float, scoring: float) -> None:
    """Print the figures of a classifier; `scores` are those of all judged texts in order."""
    counts = [len(kind) for pair in judged for kind in pair]
    parts = np.split(np.asarray(scores), np.cumsum(counts)[:-1])
    areas = [
        roc_auc_score(np.repeat([1, 0], [len(good), len(others)]), np.concatenate([good, others]))
        for good, others in zip(parts[::2], parts[1::2], strict=True)
    ]
    size = sum(len(text) for pair in judged for kind in pair for text in kind) / 1e6
    figures = {
        "auc": round(areas[0], 4),
        "auc_other_texts": round(areas[1], 4),
        "seconds_to_learn": round(learning, 2),
        "megabytes_per_second": round(size / scoring, 1),
    }
    print(json.dumps({"classifier": name, "passages": counts, **figures}))


if __name__ == "__main__":
    main()
