"""General compressors as baselines: bits per byte of held-out text with gzip and xz."""

import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from homegrown.reporting.numbers import file_size
from homegrown.tokenizer.sample import read_shard
from homegrown.util.elsewhere import parts_of

PRIMER_BYTES = 2_000_000
"""Training text that xz reads first: a quarter of its dictionary, half a second twice."""

GZIP_LEVEL, XZ_PRESET = 9, 6
_GZIP_WINDOW = 31  # zlib's name for the largest window, in gzip's format


def compressed_bits_per_byte(shards: Path) -> dict[str, float]:
    """Return bits per byte of the test documents in `shards`, as one stream, by the name of the compressor.

    These are gzip (level 9), xz (preset 6), and the bytes that the test documents add to the start of the training
    text under xz (preset 6).
    """
    text = sum(map(len, _documents(shards / "test")))
    primer = list(_beginning(_documents(shards / "train"), PRIMER_BYTES))
    primed = xz_size([*primer, *_documents(shards / "test")]) - xz_size(primer)
    return {
        "gzip": 8 * gzip_size(_documents(shards / "test")) / text,
        "xz": 8 * xz_size(_documents(shards / "test")) / text,
        f"xz after {file_size(sum(map(len, primer)))}": 8 * primed / text,
    }


def gzip_size(texts: Iterable[bytes]) -> int:
    """Return the size of the texts as one gzip file."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=_GZIP_WINDOW)
    return sum(len(compressor.compress(text)) for text in texts) + len(compressor.flush())


def xz_size(texts: Iterable[bytes]) -> int:
    """Return the size of the texts as one xz file without checksums."""
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=XZ_PRESET)
    return sum(len(compressor.compress(text)) for text in texts) + len(compressor.flush())


def _documents(folder: Path) -> Iterator[bytes]:
    for shard in parts_of(folder):
        for batch in read_shard(shard, ["text"]):
            yield from (text.encode() for text in batch["text"].to_pylist())


def _beginning(texts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Yield texts up to `limit` bytes; the last one is cut there."""
    left = limit
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return
