"""Redaction of personal data: e-mail addresses, public IP addresses, telephone numbers become placeholders.

The placeholders of the first two are FineWeb's (Penedo et al. 2024, section 3.7). Patterns run only on texts that pass
a cheap test of their bytes. `benchmarks/redaction.py` measures precision and recall beside Presidio's recognizers.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from homegrown.corpus.compiled import buffers, compiled

Kind = Literal["email", "ip", "phone"]


class _Rule(NamedTuple):
    """A kind of personal data in one notation. The group `found` of `pattern` is what is replaced.

    A text that the pattern matches passes the gate too, and the test of its bytes before that.
    """

    kind: Kind
    test: int | None  # column of `_passed`
    gate: str  # RE2
    pattern: re.Pattern[str]
    placeholder: str
    is_personal: Callable[[re.Match[str]], bool]


# Letters of scripts without spaces end an address: there, what stands before and after it belongs to the sentence.
# Thai, Lao, Burmese, Khmer; kana and Han; Hangul, whose particles follow a word without a space.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_LETTER = rf"[^\W\d_{_UNSPACED}]"
_ALNUM = rf"[^\W_{_UNSPACED}]"
_LOCAL = rf"(?:{_ALNUM}|_)(?:{_ALNUM}|[_!#$%'*+^`{{|}}~.-]){{0,63}}"  # RFC 6531's, but for what delimits in URLs
_LABEL = rf"{_ALNUM}(?:(?:{_ALNUM}|-){{0,61}}{_ALNUM})?"  # RFC 1035: at most 63
_FILES = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "json", "html", "htm", "xml", "pdf", "txt")
)


def _is_mailbox(match: re.Match[str]) -> bool:
    """Whether an address is not that of a file, a version of a package, or a repository (git@host:path)."""
    text, start = match.string, match.start("found")
    labels = match["found"].rpartition("@")[2].lower().split(".")
    if labels[-1] in _FILES or (len(labels) > 2 and all(label.isdigit() for label in labels[:-1])):
        return False
    # A handle of a network (@user@host), or a package in the path of a page (/name@version.min).
    return text[start - 1 : start] not in ("@", "/") or text[max(0, start - 2) : start] == "//"


# Numbers with these names before them are not addresses, though they have the form.
_NUMBERED = re.compile(
    r"(?:\b(?:v|ver|version|release|section|sec|chapter|figure|fig|table|clause|article|annex|build|rev|revision|"
    r"firmware|driver|kernel|update|oid|iso|rfc|din|chrome|firefox|safari|edge|opera)s?|"
    r"version[\"'(]{0,3}|§|[=<>~!]=|\w-)[\s:=/.]{0,3}\"?$",
    re.IGNORECASE,
)
_ADDRESSED = re.compile(
    r"(?:\b(?:ip|ips|ipv4|address|addr|host|hosts|hostname|server|nameserver|dns|ping|client|via|port|banned|"
    r"deny|allow|proxy|gateway|route|remote|connect|login|peer|resolver)|https?://|[\[@])[\s:=(\"']{0,3}$",
    re.IGNORECASE,
)


def _is_public(match: re.Match[str]) -> bool:
    """Whether an IPv4 address is public, and not a number of a version or section.

    Private, loopback and documentation addresses identify nobody. Of random addresses below 100.0.0.0, one in a hundred
    has two numbers below 10, as versions have; then a word before it or a port behind it has to say that it is one.
    """
    try:
        address = ipaddress.IPv4Address(match["found"])
    except ValueError:
        return False
    before = match.string[max(0, match.start("found") - 24) : match.start("found")]
    if not address.is_global or address.is_multicast or _NUMBERED.search(before):
        return False
    same = len(set(address.packed)) == 1  # 8.8.8.8, 1.1.1.1: resolvers
    if same or address.packed[0] >= 100 or sum(number < 10 for number in address.packed) < 2:
        return True
    after = match.string[match.end("found") : match.end("found") + 3]
    return bool(_ADDRESSED.search(before) or re.match(r"[:/]\d", after))


def _is_public_6(match: re.Match[str]) -> bool:
    """Whether an IPv6 address is in the range of global unicast addresses (RFC 4291) that is not for documentation."""
    try:
        address = ipaddress.IPv6Address(match["found"])
    except ValueError:
        return False
    return address.is_global and address not in _DOCUMENTATION


_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637; ipaddress knows 2001:db8::/32


def _is_phone(match: re.Match[str]) -> bool:
    """Whether the number has 7 to 15 digits (E.164) and is not a decimal."""
    number = match["found"]
    return 7 <= sum(map(str.isdigit, number)) <= 15 and not re.fullmatch(r"\+?\d+\.\d+", number)


_CALLED = (
    r"tel|t[ée]l|phone|telephone|telefon|tel[ée]fono|t[ée]l[ée]phone|fax|call|ring|mobile?|cell|whatsapp|handy|"
    r"тел|телефон|电话|電話|手机|携帯|전화|โทร"
)

_AT, _DOT, _COLON = 0, 1, 2

_RULES = (
    _Rule(
        "email",
        _AT,
        "@",
        re.compile(
            rf"(?P<found>{_LOCAL}@(?:{_LABEL}\.)+(?:xn--[a-z0-9-]{{1,59}}|{_LETTER}{{2,24}}))(?!{_ALNUM}|:[\w~/.])"
        ),
        "email@example.com",
        _is_mailbox,
    ),
    _Rule(
        "ip",
        _DOT,
        r"\d\.\d{1,3}\.\d{1,3}\.\d",
        re.compile(r"(?<![\w.])(?P<found>(?:\d{1,3}\.){3}\d{1,3})(?![\w]|\.\d)"),
        "22.214.171.124",
        _is_public,
    ),
    _Rule(
        "ip",
        _COLON,
        r"[23][0-9a-fA-F]{3}:[0-9a-fA-F:]",
        re.compile(r"(?<![\w:.])(?P<found>[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2,34})(?![\w:])"),
        "2001:db8::1",
        _is_public_6,
    ),
    # With a country code, or in North America's notations, where area and exchange codes start from 2; else a word has
    # to say that it is a number to call.
    _Rule(
        "phone",
        None,
        r"\+[1-9]|\(\d{3}\)|\d{3}[-.]\d{3}[-.]\d{4}",
        re.compile(
            r"(?<![\w+.-])(?P<found>\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,5}){1,4}|"
            r"\([2-9]\d{2}\)[ .-]?[2-9]\d{2}[ .-]\d{4}|[2-9]\d{2}[.-][2-9]\d{2}[.-]\d{4})(?![\w]|[.-]\d)"
        ),
        "+1 202-555-0100",  # reserved for fiction
        _is_phone,
    ),
    _Rule(
        "phone",
        None,
        rf"(?i)(?:{_CALLED})[^\d\n]{{0,12}}\d",
        re.compile(
            rf"(?<!\w)(?:{_CALLED})(?: (?:number|no|nr))?[ .:#]{{1,4}}"
            r"(?P<found>(?:\(?\d{1,5}\)?[ ./-]){1,5}\d{2,8}|\d{9,11})(?!\w|[.-]\d)",
            re.IGNORECASE,
        ),
        "+1 202-555-0100",
        _is_phone,
    ),
)


def find(text: str, kind: Kind) -> list[tuple[int, int]]:
    """Return start and end of every occurrence of a kind of personal data in a text."""
    return [
        match.span("found")
        for rule in _RULES
        if rule.kind == kind
        for match in rule.pattern.finditer(text)
        if rule.is_personal(match)
    ]


def redact(texts: pa.StringArray, kinds: Sequence[Kind]) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """Return texts with every match of the `kinds` replaced, and the number of matches in each: (n,) int32."""
    counts = np.zeros(len(texts), np.int32)
    passed = np.zeros((3, len(texts)), bool)  # no placeholder makes a text pass another test
    _test_bytes(*buffers(texts), passed)
    for rule in _RULES:
        if rule.kind not in kinds:
            continue
        rows = np.arange(len(texts)) if rule.test is None else np.flatnonzero(passed[rule.test])
        own = texts.take(pa.array(rows))
        candidates = pc.match_substring_regex(own, rule.gate)
        has_match, changed = np.zeros(len(texts), bool), list[str]()
        for row, text in zip(rows[np.asarray(candidates)], own.filter(candidates).to_pylist(), strict=True):
            matches = [match for match in rule.pattern.finditer(text) if rule.is_personal(match)]
            if matches:
                has_match[row] = True
                counts[row] += len(matches)
                changed.append(_replaced(text, matches, rule.placeholder))
        if changed:
            texts = pc.replace_with_mask(texts, pa.array(has_match), pa.array(changed, pa.string()))
    return texts, counts


@compiled
def _test_bytes(data: NDArray[np.uint8], offsets: NDArray[np.int32], passed: NDArray[np.bool_]) -> None:
    """Find in each text an @, a dot between digits, and a colon as in IPv6: no branch, so it vectorizes."""
    for text in range(offsets.size - 1):
        own = data[offsets[text] : offsets[text + 1]]
        at = dot = colon = np.uint8(0)
        for k in range(own.size):
            at |= np.uint8(own[k] == np.uint8(64))
        second, third, fourth, fifth, sixth = own[1:], own[2:], own[3:], own[4:], own[5:]
        for k in range(third.size):
            dot |= np.uint8(second[k] == np.uint8(46)) & _digit(own[k]) & _digit(third[k])
        for k in range(sixth.size):
            start = np.uint8(own[k] == np.uint8(50)) | np.uint8(own[k] == np.uint8(51))
            before = _hexadecimal(second[k]) & _hexadecimal(third[k]) & _hexadecimal(fourth[k])
            after = _hexadecimal(sixth[k]) | np.uint8(sixth[k] == np.uint8(58))
            colon |= np.uint8(fifth[k] == np.uint8(58)) & start & before & after
        passed[0, text], passed[1, text], passed[2, text] = at != 0, dot != 0, colon != 0


@compiled
def _digit(byte: np.uint8) -> np.uint8:
    return np.uint8(np.uint8(byte - np.uint8(48)) < np.uint8(10))


@compiled
def _hexadecimal(byte: np.uint8) -> np.uint8:
    return _digit(byte) | np.uint8(np.uint8((byte | np.uint8(32)) - np.uint8(97)) < np.uint8(6))


def _replaced(text: str, matches: list[re.Match[str]], placeholder: str) -> str:
    parts, place = [], 0
    for match in matches:
        parts += [text[place : match.start("found")], placeholder]
        place = match.end("found")
    return "".join([*parts, text[place:]])
