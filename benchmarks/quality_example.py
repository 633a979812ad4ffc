"""Quality by example against scikit-learn: AUC and speed on passages of two years of Wikipedia.

Both learn passages of one dump against those of another, by one half, and are measured on the other: a difference of
style and selection that no single word gives away. scikit-learn has the same features (words and pairs of words, 2^18
and 2^16 buckets) and its logistic regression (SGDClassifier, log_loss); one thread each.
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

from homegrown.corpus.quality.example import Classifier, chosen, fit
from homegrown.corpus.quality.texts import take_apart

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
LENGTH = 600  # characters of a passage
MOST = 6_000  # passages of a kind


def passages(name: str) -> list[str]:
    """Return passages of articles, in the order of their hashes."""
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as lines:
        texts = [text for line in lines if len(text := json.loads(line)["text"]) > LENGTH]
    return chosen([text[-LENGTH:] for text in texts], MOST)


def main() -> None:
    """Print a line of JSON for each classifier."""
    good, others = passages("wikipedia-2015.jsonl.gz"), passages("wikipedia-stubs.jsonl.gz")
    most = min(len(good), len(others))
    learned, tested = (good[: most // 2], others[: most // 2]), (good[most // 2 : most], others[most // 2 : most])
    texts, labels = [*tested[0], *tested[1]], np.repeat([1, 0], [len(tested[0]), len(tested[1])])
    size = sum(map(len, texts)) / 1e6

    fit(good[:50], others[:50])  # compiles
    began = time.process_time()
    classifier: Classifier = fit(*learned)
    fitted = time.process_time()
    scores = classifier.percentiles(take_apart(pa.array(texts)))
    report("homegrown", roc_auc_score(labels, scores), fitted - began, size / (time.process_time() - fitted))

    for bits in (16, 18):
        vectors = HashingVectorizer(n_features=2**bits, ngram_range=(1, 2), lowercase=False, token_pattern=r"\S+")
        model = SGDClassifier(loss="log_loss", max_iter=5, tol=None, random_state=1)
        began = time.process_time()
        model.fit(vectors.transform([*learned[0], *learned[1]]), np.repeat([1, 0], [len(each) for each in learned]))
        fitted = time.process_time()
        scores = model.decision_function(vectors.transform(texts))
        name = f"scikit-learn, 2^{bits} buckets"
        report(name, roc_auc_score(labels, scores), fitted - began, size / (time.process_time() - fitted))


def report(name: str, auc: float, seconds: float, speed: float) -> None:
    """Print the figures of a classifier."""
    figures = {"auc": round(auc, 4), "seconds_to_learn": round(seconds, 2), "megabytes_per_second": round(speed, 1)}
    print(json.dumps({"classifier": name, **figures}))


if __name__ == "__main__":
    main()
