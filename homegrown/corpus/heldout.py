"""Documents similar to those held out for validation and test, below the threshold of duplicates."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled
from homegrown.corpus.lsh import agreement, band_keys, banding
from homegrown.corpus.minhash import SHINGLE_WORDS, permutations, sketch
from homegrown.util.files import writing

PERMUTATIONS = 126


class HeldOut(NamedTuple):
    """The h held-out documents: signatures (h, permutations), band keys (bands, h), ascending, and their owners."""

    permuted: NDArray[np.uint32]
    bands: int
    signatures: NDArray[np.uint32]
    keys: NDArray[np.uint64]
    owners: NDArray[np.int64]


class Signer:
    """Collects the held-out documents batch by batch; about 800 bytes of memory each."""

    def __init__(self, threshold: float, seed: int) -> None:
        self._bands, rows = banding(threshold, PERMUTATIONS)
        self.size = self._bands * rows
        self._permuted = permutations(self.size, seed)
        self._signatures = [np.empty((0, self.size), np.uint32)]

    def sign(self, texts: pa.StringArray) -> NDArray[np.uint32]:
        """Return the signatures of texts; one without words is similar to none, because no text has its signature."""
        return sketch(texts, SHINGLE_WORDS, self._permuted).signatures

    def add(self, signatures: NDArray[np.uint32]) -> None:
        """Add documents by their signatures; their numbers continue from 0 over all calls."""
        self._signatures.append(signatures)

    def finish(self) -> HeldOut:
        """Return the index of all added documents."""
        signatures = np.concatenate(self._signatures)
        keys = band_keys(signatures, self._bands)
        owners = np.argsort(keys, axis=1, kind="stable")
        return HeldOut(self._permuted, self._bands, signatures, np.take_along_axis(keys, owners, axis=1), owners)


_FILES = ("permuted", "signatures", "keys", "owners")


def index_files(folder: Path) -> tuple[Path, ...]:
    """Return the paths of a saved index."""
    return tuple(folder / f"{name}.npy" for name in _FILES)


def save(held_out: HeldOut, files: tuple[Path, ...]) -> None:
    """Write an index to `index_files`."""
    for name, path in zip(_FILES, files, strict=True):
        with writing(path) as file:
            np.save(file, getattr(held_out, name))


def load(files: tuple[Path, ...]) -> HeldOut:
    """Return a saved index, mapped into memory: the processes of a machine share it."""
    permuted, signatures, keys, owners = (np.load(path, mmap_mode="c") for path in files)
    return HeldOut(permuted, len(keys), signatures, keys, owners)


def most_similar(
    texts: pa.StringArray, held_out: HeldOut, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each text the number of the most similar held-out document, or -1, and their estimated Jaccard.

    Only documents that agree in a band are compared, and only similarities of at least `threshold` count. The bands
    compare a pair of just this similarity with a probability of at least 0.9 (`homegrown.corpus.lsh`).
    """
    sketches = sketch(texts, SHINGLE_WORDS, held_out.permuted)
    keys = band_keys(sketches.signatures, held_out.bands)
    return _most_similar(
        sketches.signatures, sketches.words, keys, held_out.signatures, held_out.keys, held_out.owners, threshold
    )


@compiled
def _most_similar(
    signatures: NDArray[np.uint32],
    words: NDArray[np.int32],
    keys: NDArray[np.uint64],
    other_signatures: NDArray[np.uint32],
    other_keys: NDArray[np.uint64],
    owners: NDArray[np.int64],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    n, size = signatures.shape
    nearest = np.full(n, -1, np.int64)
    similarities = np.zeros(n, np.float64)
    for band in range(other_keys.shape[0]):
        sorted_keys = other_keys[band]
        firsts = np.searchsorted(sorted_keys, keys[band])
        for i in range(n):
            j = firsts[i]
            while words[i] and j < sorted_keys.size and sorted_keys[j] == keys[band, i]:
                owner = owners[band, j]
                alike = agreement(signatures[i], other_signatures[owner]) / size
                better = alike > similarities[i] or (alike == similarities[i] and owner < nearest[i])
                if alike >= threshold - 1e-9 and better:
                    nearest[i], similarities[i] = owner, alike
                j += 1
    return nearest, similarities
