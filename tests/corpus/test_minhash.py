"""Signatures against datasketch, hashing against published values, words against plain Python."""

import unicodedata
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.corpus.minhash import permutations, sketch, sketch_with_sets
from tests.corpus.made_up import sentence

MASK = 2**64 - 1
UNSPACED = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF)]
UNSPACED += [(0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)]


def word_hash(word: str) -> int:
    """Return the hash of a word's UTF-8 bytes, filled up with zeros to a multiple of 16, eight after eight."""
    data = word.encode()
    data += bytes(-len(data) % 16)
    value = 0xCBF29CE484222325
    for first in range(0, len(data), 8):
        value = (value ^ int.from_bytes(data[first : first + 8], "little")) * 0x9FB21C651E98DF25 & MASK
        value ^= value >> 32
    return value


def shingle_hash(shingle: str) -> int:
    """Return the 32-bit hash of a shingle's words, joined by spaces: the `hashfunc` that datasketch is given."""
    value = 0
    for word in shingle.split(" "):
        value = (value * 0x9E3779B97F4A7C15 + word_hash(word)) & MASK
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * multiplier & MASK
    return (value ^ value >> 33) >> 32


def premixed(shingle: int) -> int:
    """Return MurmurHash3's 32-bit finalizer of a hash, which datasketch takes before its permutations."""
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        shingle = (shingle ^ shingle >> shift) * multiplier & 0xFFFFFFFF
    return shingle ^ shingle >> 16


def words_of(text: str) -> list[str]:
    words, word = [], ""
    for character in text:
        code = ord(character)
        in_word = code < 0x40000 and (
            unicodedata.category(character)[0] in "LMN" or unicodedata.category(character) == "Pc"
        )
        alone = in_word and any(first <= code <= last for first, last in UNSPACED)
        if word and (not in_word or alone):
            words.append(word)
            word = ""
        if alone:
            words.append(character.lower()[0])
        elif in_word:
            word += character.lower()[0]
    return words + [word] * bool(word)


def by_datasketch(text: str, size: int, count: int, seed: int) -> Any:
    from datasketch import MinHash

    words = words_of(text)
    shingles = [" ".join(words[i : i + size]) for i in range(max(bool(words), len(words) - size + 1))]
    minhash = MinHash(num_perm=count, seed=seed, scheme="affine32", hashfunc=shingle_hash)
    minhash.update_batch(shingles)
    return minhash


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.text(max_size=200), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 2**63))
def test_signatures_are_datasketchs_bit_for_bit(texts: list[str], size: int, seed: int) -> None:
    found = sketch(pa.array(texts), size, permutations(12, seed))
    for text, signature, words in zip(texts, found.signatures, found.words, strict=True):
        assert words == len(words_of(text))
        expected = by_datasketch(text, size, 12, seed % 2**32)
        assert np.array_equal(signature, expected.hashvalues)


def test_long_texts_and_slices_of_arrays_too() -> None:
    random = Random(1)
    texts = [
        " ".join(sentence(random, 3000)),
        "",
        "one",
        "Straße CAFÉ — 吾輩は猫である ภาษาไทย हिन्दी",
        "a_b don't 3.14",
    ]
    array = pa.array(["before", *texts])[1:]
    found = sketch(array, 5, permutations(126, 7))
    for text, signature in zip(texts, found.signatures, strict=True):
        assert np.array_equal(signature, by_datasketch(text, 5, 126, 7).hashvalues)
    assert found.lengths.tolist() == [len(text) for text in texts]


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.text(alphabet="ab .é字", max_size=60), max_size=5), st.integers(1, 3))
def test_the_sets_have_each_shingle_of_a_text_once_in_ascending_order(texts: list[str], size: int) -> None:
    array, permuted = pa.array(["before", *texts], pa.string())[1:], permutations(12, 7)
    found, sets = sketch_with_sets(array, size, permuted)
    alone = sketch(array, size, permuted)
    assert np.array_equal(found.signatures, alone.signatures) and np.array_equal(found.digests, alone.digests)
    for number, text in enumerate(texts):
        words = words_of(text)
        every = [" ".join(words[i : i + size]) for i in range(max(bool(words), len(words) - size + 1))]
        expected = sorted({premixed(shingle_hash(shingle)) for shingle in every})
        assert sets.shingles[sets.starts[number] : sets.starts[number + 1]].tolist() == expected
        assert sets.distinct[number] == (len(expected) / len(every) if every else 1)
        assert sets.letters[number] == sum(character.isalpha() for character in text) / max(1, len(text))


def test_no_more_than_500_000_characters_are_shingled() -> None:
    start = " ".join(sentence(Random(2), 90_000))[:499_999] + " "
    one, other = sketch(pa.array([start + "some end", start + "another"]), 5, permutations(20, 1)).signatures
    assert np.array_equal(one, other)


@settings(deadline=None)  # the first example compiles
@given(st.text(max_size=60), st.text(max_size=60))
def test_the_digest_ignores_case_and_white_space_only(one: str, other: str) -> None:
    def folded(text: str) -> str:
        return " ".join("".join(c.lower()[0] if ord(c) < 0x40000 else c for c in text).split())

    variants = [one, other, "  " + one.replace(" ", " \n\t "), one.upper() if one.isascii() else one]
    digests = sketch(pa.array(variants), 5, permutations(1, 1)).digests
    for text, digest in zip(variants, digests, strict=True):
        assert (tuple(digest) == tuple(digests[0])) == (folded(text) == folded(one))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_agreement_estimates_jaccard(share: float) -> None:
    words = sentence(Random(3), 4000)
    cut = int(len(words) * share)
    other = words[:cut] + sentence(Random(4), len(words) - cut)
    sets = [{tuple(text[i : i + 5]) for i in range(len(text) - 4)} for text in (words, other)]
    jaccard = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    left, right = sketch(pa.array([" ".join(words), " ".join(other)]), 5, permutations(1000, 5)).signatures
    assert abs((left == right).mean() - jaccard) < 0.06
