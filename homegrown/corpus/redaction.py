"""Redaction of personal data: e-mail addresses, public IP addresses, telephone numbers become placeholders.

The first two and their placeholders are FineWeb's (Penedo et al. 2024, section 3.7). Patterns run only on texts that
pass a cheap test of their bytes; most have neither an @ nor three full stops between digits.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class _Kind(NamedTuple):
    gate: str  # RE2; matches every text that the pattern matches
    pattern: re.Pattern[str]
    placeholder: str
    is_personal: Callable[[str], bool]


def _always(_found: str) -> bool:
    return True


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_phone(number: str) -> bool:
    return 8 <= sum(character.isdigit() for character in number) <= 15  # E.164: at most 15 digits


_KINDS = {
    # RFC 5322's dot-atom before the @, a domain name with a dot behind it; at most 64 characters (RFC 5321), so
    # that the search is linear in a million exclamation marks
    "email": _Kind(
        "@",
        re.compile(
            r"(?<![\w.+-])[\w!#$%&'*+/=?^`{|}~-]{1,64}(?:\.[\w!#$%&'*+/=?^`{|}~-]{1,64}){0,32}@(?:[a-z0-9-]+\.)+[a-z]{2,}",
            re.IGNORECASE,
        ),
        "email@example.com",
        _always,
    ),
    # private, loopback and documentation addresses identify nobody and stay
    "ip": _Kind(
        r"\d\.\d{1,3}\.\d{1,3}\.\d",
        re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"),
        "22.214.171.124",
        _is_public,
    ),
    # with a country code, an area code in brackets, or as 202-555-0100; bare digits could be anything
    "phone": _Kind(
        r"\+\d|\(\d{3}\)|\d{3}[-.]\d{3}[-.]\d{4}",
        re.compile(
            r"(?<![\w+.-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}|"
            r"\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?![\w]|[.-]\d)"
        ),
        "+1 202-555-0100",  # reserved for fiction
        _is_phone,
    ),
}


def redact(texts: pa.StringArray, kinds: Sequence[str]) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """Return texts with every match of the `kinds` replaced, and the number of matches in each: (n,) int32."""
    counts = np.zeros(len(texts), np.int32)
    for kind in kinds:
        gate, pattern, placeholder, is_personal = _KINDS[kind]
        candidates = pc.match_substring_regex(texts, gate)
        rows = np.flatnonzero(candidates)
        changed: list[str] = []
        for row, text in zip(rows, texts.filter(candidates).to_pylist(), strict=True):
            matches = [match for match in pattern.finditer(text) if is_personal(match[0])]
            counts[row] += len(matches)
            changed.append(_replaced(text, matches, placeholder))
        texts = pc.replace_with_mask(texts, candidates, pa.array(changed, pa.string()))
    return texts, counts


def _replaced(text: str, matches: list[re.Match[str]], placeholder: str) -> str:
    parts, place = [], 0
    for match in matches:
        parts += [text[place : match.start()], placeholder]
        place = match.end()
    return "".join([*parts, text[place:]])
