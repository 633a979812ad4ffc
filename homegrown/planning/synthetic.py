"""Random tokens and an arbitrary tokenizer of any size for the real training loop: its speed needs no text."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from homegrown.data.index import SPLITS, Index, Split, TokenFile, token_type, write_index
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.tokenizer.special import SPECIAL_TOKENS


def write_synthetic(folder: Path, vocabulary_size: int, context: int, windows: int) -> None:
    """Write the folders `packed` and `tokenizer` like those stages, with at least `windows` windows in each split.

    Tokens are uniformly random from a fixed seed; the tokenizer's merges are arbitrary but consistent.
    """
    tokens = windows * context + 1
    dtype = token_type(vocabulary_size)
    drawn = np.random.default_rng(0).integers(len(SPECIAL_TOKENS), vocabulary_size, tokens).astype(dtype)
    splits: dict[Split, list[TokenFile]] = {}
    for split in SPLITS:
        part = folder / "packed" / split
        part.mkdir(parents=True)
        drawn.tofile(part / "tokens-00000-00.bin")
        np.save(part / "documents-00000-00.npy", np.zeros(1, np.int64))
        splits[split] = [
            TokenFile(
                tokens_file=f"{split}/tokens-00000-00.bin",
                documents_file=f"{split}/documents-00000-00.npy",
                tokens=tokens,
                documents=1,
                bytes=4 * tokens,
            )
        ]
    write_index(folder / "packed", Index(dtype=dtype, vocabulary_size=vocabulary_size, splits=splits))
    (folder / "tokenizer").mkdir()
    _tokenizer(vocabulary_size).save(str(folder / "tokenizer" / TOKENIZER_FILE))


def _tokenizer(vocabulary_size: int) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(islice(_merges(alphabet), vocabulary_size - len(SPECIAL_TOKENS) - len(alphabet)))
    names = [*SPECIAL_TOKENS, *alphabet, *(first + second for first, second in merges)]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(alphabet: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each string of two letters, then of three, and so on, as its start and its last letter."""
    prefixes = alphabet
    while True:
        for prefix in prefixes:
            for letter in alphabet:
                yield prefix, letter
        prefixes = [prefix + letter for prefix in prefixes for letter in alphabet]
