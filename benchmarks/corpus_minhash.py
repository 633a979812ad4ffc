"""MinHash signatures per CPU second on one core: this project's kernel compared with datatrove, datasketch and rensa.

Each is given Unicode texts and makes 128 permutations of word 5-grams, lower-cased. datatrove is measured as it comes
(spaCy splits words) and told to split at white space; datasketch and rensa have no splitting of their own and are given
Python's `str.lower().split()`, which is counted.
"""

from collections.abc import Callable

import pyarrow as pa

from benchmarks.measuring import rate, real_texts, table
from benchmarks.peer_functions import shingles
from benchmarks.peers import call

PERMUTATIONS = 128
WORDS = 5


def measure(quick: bool = False) -> dict[str, float]:
    """Print documents per second of each; return the ratios of this project to them."""
    texts, name = real_texts(2000 if quick else 8000)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = rate(_homegrown(), texts)
    few, some, many = (100, 200, 1000) if quick else (200, 400, 4000)
    rates: dict[str, float] = {
        "datatrove": call("datatrove_signatures", texts=texts[:few], words=WORDS, spacy=True),
        "datatrove, words at white space": call("datatrove_signatures", texts=texts[:some], words=WORDS, spacy=False),
        "datasketch, bulk": rate(_datasketch(), texts[:some]),
        "rensa, RMinHash": call("rensa_signatures", texts=texts[:many], words=WORDS, permutations=PERMUTATIONS),
    }
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


def _datasketch() -> Callable[[list[str]], object]:
    from datasketch import MinHash

    return lambda texts: MinHash.bulk((shingles(text, WORDS) for text in texts), num_perm=PERMUTATIONS)
