"""Language identification, offline: two models and the scripts.

Read are eight windows spread evenly over the document, 2,048 bytes in all; all of a shorter one. A script
of one language decides by itself. Else py3langid's naive Bayes model (Lui and Baldwin 2012) ranks the languages; where
CLD2 (Sites 2013) reliably finds another one and knows both, CLD2's counts. The automaton and the sums of py3langid's
model are computed by the kernels here, the weights rounded to 8 bits.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from numpy.typing import NDArray

from homegrown.corpus.characters import CODE_POINTS, characters, decode
from homegrown.corpus.compiled import buffers, compiled
from homegrown.util.errors import UserError

WINDOWS, WINDOW = 8, 256  # bytes of a window

UNKNOWN = "zxx"  # ISO 639-2: no linguistic content
# By the name of a script in Unicode: its code (ISO 15924), and its language if the models know only one.
_SCRIPTS = {
    "Latin": ("Latn", ""),
    "Cyrillic": ("Cyrl", ""),
    "Greek": ("Grek", ""),
    "Arabic": ("Arab", ""),
    "Hebrew": ("Hebr", ""),
    "Devanagari": ("Deva", ""),
    "Bengali": ("Beng", ""),
    "Han": ("Hani", ""),
    "Hiragana": ("Jpan", ""),
    "Katakana": ("Jpan", ""),
    "Ethiopic": ("Ethi", ""),
    "Tibetan": ("Tibt", ""),
    "Hangul": ("Hang", "ko"),
    "Thai": ("Thai", "th"),
    "Lao": ("Laoo", "lo"),
    "Khmer": ("Khmr", "km"),
    "Myanmar": ("Mymr", "my"),
    "Tamil": ("Taml", "ta"),
    "Telugu": ("Telu", "te"),
    "Kannada": ("Knda", "kn"),
    "Malayalam": ("Mlym", "ml"),
    "Sinhala": ("Sinh", "si"),
    "Gujarati": ("Gujr", "gu"),
    "Gurmukhi": ("Guru", "pa"),
    "Oriya": ("Orya", "or"),
    "Thaana": ("Thaa", "dv"),
    "Armenian": ("Armn", "hy"),
    "Georgian": ("Geor", "ka"),
    "Mongolian": ("Mong", "mn"),
    "Tagalog": ("Tglg", "tl"),
}
_OWN_SHARE = 0.5  # of the letters, in a script of one language
_CAPITALS_SHARE = 0.8
_CLD2_CODES = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "no": "nb"}
_STEPS = 255  # of a weight


class Languages(NamedTuple):
    """By text, (n,) each: most likely language, its probability, that of the most likely wanted one, script."""

    codes: list[str]
    probabilities: NDArray[np.float64]
    asked: NDArray[np.float64]
    scripts: list[str]


class _Model(NamedTuple):
    """py3langid's model: the automaton over bytes, and the features' weights by class.

    `moves` by 256 * `rows[state]` + byte. A state has the number of its feature; `others` has the features of the next
    states, and the states after these have none. `weights` (features, classes) times `step` are the logarithms of
    the probabilities less a constant; `logs` by count; `priors` (classes,); `start` is the
    first state.
    """

    moves: NDArray[np.uint32]
    rows: NDArray[np.uint16]
    others: NDArray[np.int32]
    weights: NDArray[np.uint8]
    logs: NDArray[np.float32]
    priors: NDArray[np.float32]
    start: int


def known_languages() -> list[str]:
    """Return the ISO 639-1 (else 639-3) codes of the known languages."""
    return sorted(set(_labels()) - {UNKNOWN})


def check_languages(codes: list[str]) -> None:
    """Raise UserError for an unknown code."""
    unknown = sorted(set(codes) - set(known_languages())) if codes else []
    if unknown:
        known = ", ".join(known_languages())
        raise UserError(f"filter.languages: unknown code {', '.join(unknown)}; choose from {known}.")


def identify(texts: pa.StringArray, asked: list[str]) -> Languages:
    """Identify the language of each text; without wanted languages, their probability is 0.

    The language of a text without letters is `zxx`, its script "". A probability is py3langid's,
    whose logarithms are divided by the square root of the number of bytes, so that long texts are not always certain;
    or the share of the letters in the script that decides.
    """
    labels = _labels()
    letters, capitals = _letters(texts)
    shouted = capitals > _CAPITALS_SHARE * letters.sum(axis=1)
    if shouted.any():  # the models know small letters
        texts = pc.if_else(pa.array(shouted), pc.utf8_lower(texts), texts)
    total = letters.sum(axis=1)
    chosen = np.where(total > 0, _by_script(letters), labels.index(UNKNOWN))
    every, sure = np.arange(len(texts)), chosen >= 0
    probabilities = _probabilities(texts, sure)
    probabilities[every[sure], chosen[sure]] = np.where(total > 0, letters.max(axis=1) / np.maximum(total, 1), 1)[sure]
    best = probabilities.argmax(axis=1)
    chosen = np.where(sure, chosen, best)
    second, known = _cld2_places()
    asked_again = np.flatnonzero(~sure & known[best])
    windows, ends = _windows(*buffers(texts), asked_again)
    start, view = 0, windows.data
    for text, end in zip(asked_again.tolist(), ends.tolist(), strict=True):
        chosen[text] = _reliable(bytes(view[start:end]), second, int(best[text]))
        start = end
    probabilities[every, best], probabilities[every, chosen] = probabilities[every, chosen], probabilities.max(axis=1)
    columns = [labels.index(code) for code in asked]
    wanted = probabilities[:, columns].max(axis=1) if columns else np.zeros(len(texts))
    scripts = np.where(total > 0, np.array([code for code, _ in _SCRIPTS.values()])[letters.argmax(axis=1)], "")
    return Languages([labels[place] for place in chosen], probabilities[every, chosen], wanted, scripts.tolist())


def _by_script(letters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of the only language in the script of each text, else -1."""
    labels = _labels()
    single = np.array([labels.index(code) if code else -1 for _, code in _SCRIPTS.values()])
    clear = letters.max(axis=1) >= _OWN_SHARE * letters.sum(axis=1)
    return np.where(clear, single[letters.argmax(axis=1)], -1)


def _letters(texts: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return counts of letters in the windows of each text: by script (n, scripts), and of capitals (n,)."""
    data, offsets = buffers(texts)
    counts = np.zeros((len(texts), len(_SCRIPTS) + 1), np.int64)
    _count_letters(data, offsets, _script_table(), characters().lower, counts)
    return counts[:, :-1], counts[:, -1]


@cache
def _script_table() -> NDArray[np.uint8]:
    """Return the place of each code point's script, or the number of scripts for others and for no letter."""
    table = np.full(CODE_POINTS, len(_SCRIPTS), np.uint8)
    every = "".join(map(chr, range(CODE_POINTS)))
    for place, name in enumerate(_SCRIPTS):
        pattern = rf"[\p{{Script={name}}}&&[\p{{L}}\p{{M}}]]"
        table[[match.start() for match in regex.finditer(pattern, every, flags=regex.VERSION1)]] = place
    return table


def _probabilities(texts: pa.StringArray, skipped: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return py3langid's probability of each label for each text, zeros for skipped ones: (n, labels)."""
    data, offsets = buffers(texts)
    model, classes = _model()
    found = np.zeros((len(texts), len(model.priors)), np.float64)
    _score(data, offsets, skipped, model, found)
    labels = _labels()
    result: NDArray[np.float64] = np.zeros((len(texts), len(labels)))
    for label, probability in zip(classes, found.T, strict=True):  # some languages have two classes, by script
        result[:, labels.index(label)] += probability
    return result


def _reliable(windows: bytes, places: dict[str, int], place: int) -> int:
    """Return the place of CLD2's language if that is reliable and among `places`, else `place`."""
    import pycld2

    try:
        reliable, _, found = pycld2.detect(windows)
    except pycld2.error:  # a character that it does not accept
        return place
    return places.get(found[0][1], place) if reliable else place


@cache
def _labels() -> list[str]:
    """Return the languages of the model and of the scripts, each once."""
    single = [code for _, code in _SCRIPTS.values() if code]
    return list(dict.fromkeys([*_model()[1], *single]))


@cache
def _cld2_places() -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Return the place of each language of CLD2 that py3langid knows too, and which labels are among them."""
    import pycld2

    labels = _labels()
    names = {code: _CLD2_CODES.get(code, code) for _, code in pycld2.LANGUAGES}
    places = {code: labels.index(name) for code, name in names.items() if name in labels}
    known = np.zeros(len(labels), bool)
    known[list(places.values())] = True
    return places, known


@cache
def _model() -> tuple[_Model, list[str]]:
    """Return the model and the labels of its classes."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    weights = np.asarray(found.nb_ptc, np.float32)
    least = weights.min()
    step = np.float32((weights.max() - least) / _STEPS)
    features, rows = np.asarray(found.tk_output, np.int64), np.asarray(found.tk_row)
    _, first = np.unique(features, return_index=True)
    first = first[features[first] >= 0]
    rest = np.setdiff1d(np.arange(len(features)), first)
    other = features[rest] >= 0
    order = np.concatenate([first, rest[other], rest[~other]])
    states = np.empty(len(order), np.uint32)
    states[order] = np.arange(len(order), dtype=np.uint32)
    model = _Model(
        states[found.tk_nextmove],
        rows[order].astype(np.min_scalar_type(rows.max())),
        features[rest[other]].astype(np.int32),
        np.ascontiguousarray(np.round((weights - least) / step).astype(np.uint8)),
        _logs(WINDOWS * WINDOW, step),
        np.asarray(found.nb_pc, np.float32),
        int(states[0]),
    )
    return model, list(found.nb_classes)


@compiled
def _score(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    skipped: NDArray[np.bool_],
    model: _Model,
    result: NDArray[np.float64],
) -> None:
    """Fill `result` (n, classes) with the probabilities, except of skipped texts.

    The windows of a text are walked together, byte by byte: their look-ups in memory do not wait for each other.
    """
    classes, features = model.priors.size, model.weights.shape[0]
    most = WINDOWS * WINDOW
    found = np.empty(most + 1, np.int64)
    counts = np.zeros(features, np.uint16)
    factors = np.empty(most + 1, np.float32)
    scores = np.empty(classes, np.float32)
    states = np.empty(WINDOWS, np.int64)
    moves, rows, weights = model.moves, model.rows, model.weights
    last = features + model.others.size
    for text in range(offsets.size - 1):
        if skipped[text]:
            continue
        first, size = int(offsets[text]), int(offsets[text + 1] - offsets[text])
        together = WINDOWS if size > most else 1
        length = WINDOW if size > most else size
        stride = (size - WINDOW) // (WINDOWS - 1) if size > most else 0
        states[:] = model.start
        many = 0
        for i in range(length):
            for window in range(together):
                byte = np.int64(data[first + window * stride + i])
                state = np.int64(moves[(np.int64(rows[states[window]]) << 8) + byte])
                states[window] = state
                found[many] = state
                many += state < last
        distinct = 0
        for i in range(many):
            feature = found[i] if found[i] < features else np.int64(model.others[found[i] - features])
            found[distinct] = feature
            distinct += counts[feature] == 0
            counts[feature] += 1
        for i in range(distinct):
            factors[i] = model.logs[counts[found[i]]]
            counts[found[i]] = 0
        scores[:] = np.float32(0)
        i = 0
        while i + 4 <= distinct:  # four rows per pass over the sums
            one, two, three, four = (
                weights[found[i]],
                weights[found[i + 1]],
                weights[found[i + 2]],
                weights[found[i + 3]],
            )
            for k in range(classes):
                total = scores[k] + factors[i] * np.float32(one[k])
                total += factors[i + 1] * np.float32(two[k])
                total += factors[i + 2] * np.float32(three[k])
                scores[k] = total + factors[i + 3] * np.float32(four[k])
            i += 4
        while i < distinct:
            row = weights[found[i]]
            for k in range(classes):
                scores[k] += factors[i] * np.float32(row[k])
            i += 1
        highest = np.float32(-np.inf)
        for k in range(classes):
            scores[k] += model.priors[k]
            highest = max(highest, scores[k])
        scale = 1 / math.sqrt(max(1, together * length))
        sum_ = 0.0
        for k in range(classes):
            result[text, k] = math.exp((scores[k] - highest) * scale)
            sum_ += result[text, k]
        for k in range(classes):
            result[text, k] /= sum_


@compiled
def _logs(most: int, step: np.float32) -> NDArray[np.float32]:
    """Return the factor of a feature's weights by its count."""
    result = np.empty(most + 1, np.float32)
    for count in range(most + 1):
        result[count] = np.float32(math.log1p(count)) * step
    return result


@compiled
def _windows(
    data: NDArray[np.uint8], offsets: NDArray[np.int32], texts: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the windows of some texts, and the end of each text's: cut between characters, a space between two."""
    written = np.empty(texts.size * (WINDOWS * (WINDOW + 4)), np.uint8)
    ends = np.empty(texts.size, np.int64)
    place = 0
    for number in range(texts.size):
        first, end = int(offsets[texts[number]]), int(offsets[texts[number] + 1])
        windows = WINDOWS if end - first > WINDOWS * WINDOW else 1
        for window in range(windows):
            start = first + window * ((end - first - WINDOW) // (WINDOWS - 1))
            stop = start + WINDOW if windows > 1 else end
            if windows > 1:
                while start < end and data[start] & 0xC0 == 0x80:
                    start += 1
                while stop < end and data[stop] & 0xC0 == 0x80:
                    stop += 1
            if window:
                written[place] = 32
                place += 1
            for i in range(start, stop):
                written[place] = data[i]
                place += 1
        ends[number] = place
    return written[:place], ends


@compiled
def _count_letters(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    places: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    counts: NDArray[np.int64],
) -> None:
    """Add to `counts` (n, scripts + 1) the letters in the windows of each text, and in the last place the capitals."""
    last = counts.shape[1] - 1
    most = WINDOWS * WINDOW
    for text in range(offsets.size - 1):
        first, end = int(offsets[text]), int(offsets[text + 1])
        windows = WINDOWS if end - first > most else 1
        for window in range(windows):
            i = first + window * ((end - first - WINDOW) // (WINDOWS - 1))
            stop = min(end, i + WINDOW) if windows > 1 else end
            while i < stop and data[i] & 0xC0 == 0x80:
                i += 1
            while i < stop:
                code, i = decode(data, i)
                if code < CODE_POINTS and places[code] < last:
                    counts[text, places[code]] += 1
                    counts[text, last] += lower[code] != code
