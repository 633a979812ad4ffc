"""Words of scripts without spaces: ICU's dictionaries find them in Chinese, Japanese, Thai, Lao, Khmer and Burmese.

Other scripts need no segmenter: white space and punctuation separate their words. In a run of characters of the former
(class `ALONE`), words end where ICU says; so does a run. The extra `languages` brings ICU; without it every character
of a run is a word, and `unsegmented` counts the documents.
"""

import importlib.metadata
import importlib.util
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, CODE_POINTS, characters, decode
from homegrown.corpus.compiled import buffers, compiled

Ends = NDArray[np.int64]
MISSING = (
    "documents in Chinese, Japanese, Thai, Lao, Khmer or Burmese were split into characters, not words: "
    "pip install 'homegrown[languages]', then run again."
)


@cache
def version() -> str | None:
    """Return the version of the segmenter, or None if it is not installed."""
    return importlib.metadata.version("icu4py") if importlib.util.find_spec("icu4py") else None


def key() -> dict[str, str]:
    """Return what of the segmenter determines words, for the keys of artifacts."""
    found = version()
    return {"segmenter": found} if found else {}


def word_ends(data: NDArray[np.uint8], offsets: NDArray[np.int32]) -> Ends:
    """Return the places in `data` where a word of a script without spaces ends, ascending.

    `data` has the bytes of texts in UTF-8, `offsets` their bounds.
    """
    starts, ends = _runs(data, offsets, characters().kinds)
    if not len(starts):
        return ends
    if version() is None:
        return _character_ends(data, starts, ends)
    from icu4py.breakers import WordBreaker

    joined, places = _join(data, starts, ends)
    segments = WordBreaker(joined.tobytes().decode(), "en").segments()
    return _places(joined, places, np.fromiter((end for _, end in segments), np.int64))


def unsegmented(texts: pa.StringArray) -> NDArray[np.bool_]:
    """Return which texts have words that only the missing segmenter finds; none if it is installed."""
    if version() is not None:
        return np.zeros(len(texts), bool)
    data, offsets = buffers(texts)
    starts, _ = _runs(data, offsets, characters().kinds)
    found: NDArray[np.bool_] = np.diff(np.searchsorted(starts, offsets)) > 0
    return found


@compiled
def _runs(data: NDArray[np.uint8], offsets: NDArray[np.int32], kinds: NDArray[np.uint8]) -> tuple[Ends, Ends]:
    """Return the starts and ends of all runs of characters of scripts without spaces."""
    size = count = 0
    may_have = np.zeros(offsets.size - 1, np.bool_)
    for text in range(offsets.size - 1):
        may_have[text] = _may_have(data, offsets[text], offsets[text + 1])
        size += (offsets[text + 1] - offsets[text]) * may_have[text]
    starts, ends = np.empty(size // 3, np.int64), np.empty(size // 3, np.int64)  # a character has three bytes
    for text in range(offsets.size - 1):
        i, end = int(offsets[text]), int(offsets[text + 1])
        if not may_have[text]:
            continue
        inside = False
        while i < end:
            at = i
            if data[i] < 0xE0:
                i += 1
                alone = False
            else:
                code, i = decode(data, i)
                alone = bool(code < CODE_POINTS and kinds[code] & ALONE != 0)
            if alone and not inside:
                starts[count] = at
            elif inside and not alone:
                ends[count] = at
                count += 1
            inside = alone
        if inside:
            ends[count] = end
            count += 1
    return starts[:count], ends[:count]


@compiled
def _may_have(data: NDArray[np.uint8], start: int, end: int) -> bool:
    """Return whether some byte may start a character of a script without spaces: no branch, so it vectorizes."""
    found = np.uint8(0)
    for i in range(start, end):
        byte = data[i]
        found = np.uint8(found | (np.uint8(byte >= np.uint8(0xE0)) & np.uint8(byte != np.uint8(0xE2))))
    return bool(found != 0)


@compiled
def _character_ends(data: NDArray[np.uint8], starts: Ends, ends: Ends) -> Ends:
    result = np.empty((ends - starts).sum(), np.int64)
    count = 0
    for run in range(starts.size):
        for i in range(starts[run] + 1, ends[run] + 1):
            if i == ends[run] or data[i] & 0xC0 != 0x80:
                result[count] = i
                count += 1
    return result[:count]


@compiled
def _join(data: NDArray[np.uint8], starts: Ends, ends: Ends) -> tuple[NDArray[np.uint8], Ends]:
    """Return the runs joined by newlines, and the place in `data` of each byte."""
    size = (ends - starts).sum() + starts.size
    joined, places = np.empty(size, np.uint8), np.empty(size, np.int64)
    count = 0
    for run in range(starts.size):
        for i in range(starts[run], ends[run]):
            joined[count], places[count] = data[i], i
            count += 1
        joined[count], places[count] = 10, ends[run]
        count += 1
    return joined, places


@compiled
def _places(joined: NDArray[np.uint8], places: Ends, segments: Ends) -> Ends:
    """Return the places in the data of the ends of segments, given in characters, without those of newlines."""
    result = np.empty(segments.size, np.int64)
    count = character = segment = 0
    for i in range(joined.size):
        if joined[i] & 0xC0 == 0x80:
            continue
        while segment < segments.size and segments[segment] < character:
            segment += 1
        if segment < segments.size and segments[segment] == character and (i == 0 or joined[i - 1] != 10):
            result[count] = places[i]
            count += i > 0
        character += 1
    return result[:count]
