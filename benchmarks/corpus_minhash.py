"""MinHash signatures per CPU second on one core: this project's kernel compared with datatrove, datasketch and rensa.

Each is given Unicode texts and makes 128 permutations of word 5-grams, lower-cased. datatrove is measured as it comes
(spaCy splits words) and told to split at white space; datasketch and rensa have no splitting of their own and are given
Python's `str.lower().split()`, which is counted.
"""

import logging
from collections.abc import Callable
from itertools import islice

import pyarrow as pa

from benchmarks.measuring import rate, real_texts, table

PERMUTATIONS = 128
WORDS = 5


def measure(quick: bool = False) -> dict[str, float]:
    """Print documents per second of each; return the ratios of this project to them."""
    texts, name = real_texts(2000 if quick else 8000)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = rate(_homegrown(), texts)
    peers = {
        "datatrove": (_datatrove(spacy=True), 100 if quick else 200),
        "datatrove, words at white space": (_datatrove(spacy=False), 200 if quick else 400),
        "datasketch, bulk": (_datasketch(), 400 if quick else 1000),
        "rensa, RMinHash": (_rensa(), 1000 if quick else 4000),
    }
    rates = {label: rate(function, texts[:count]) for label, (function, count) in peers.items()}
    rows = [("homegrown", f"{ours:,.0f}", f"{ours * megabytes / len(texts):,.1f}", "")]
    rows += [
        (label, f"{own:,.0f}", f"{own * megabytes / len(texts):,.1f}", f"{ours / own:,.1f}")
        for label, own in rates.items()
    ]
    title = (
        f"MinHash, {PERMUTATIONS} permutations, word {WORDS}-grams: {name}, {1e3 * megabytes / len(texts):.1f} KB each"
    )
    table(title, ("", "documents/s", "MB/s", "homegrown is times faster"), rows)
    return {
        "minhash_vs_datatrove": ours / rates["datatrove"],
        "minhash_vs_datatrove_white_space": ours / rates["datatrove, words at white space"],
        "minhash_vs_datasketch": ours / rates["datasketch, bulk"],
        "minhash_vs_rensa": ours / rates["rensa, RMinHash"],
    }


def _homegrown() -> Callable[[list[str]], object]:
    from homegrown.corpus.minhash import permutations, sketch

    permuted = permutations(PERMUTATIONS, 1)
    return lambda texts: sketch(pa.array(texts), WORDS, permuted)


def _datatrove(spacy: bool) -> Callable[[list[str]], object]:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    logging.getLogger("datatrove").setLevel(logging.ERROR)
    config = MinhashConfig(n_grams=WORDS, num_buckets=16, hashes_per_bucket=8)
    step = MinhashDedupSignature("memory://unused", config)
    if not spacy:
        step.word_tokenizer = WhiteSpace()

    def sign(texts: list[str]) -> None:
        for text in texts:
            step.get_signature(step.get_shingles(text))

    return sign


class WhiteSpace:
    """A replacement for spaCy; datatrove's own WhitespaceTokenizer calls spaCy too."""

    def word_tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return text.split()


def _shingles(text: str) -> list[bytes]:
    words = text.lower().split()
    grams = zip(*(islice(words, first, None) for first in range(min(WORDS, len(words)))), strict=False)
    return [" ".join(gram).encode() for gram in grams]


def _datasketch() -> Callable[[list[str]], object]:
    from datasketch import MinHash

    return lambda texts: MinHash.bulk(map(_shingles, texts), num_perm=PERMUTATIONS)


def _rensa() -> Callable[[list[str]], object]:
    from rensa import RMinHash

    return lambda texts: RMinHash.digest_matrix_from_token_byte_sets(map(_shingles, texts), PERMUTATIONS, 1)
