"""Precision and recall of redaction beside Presidio's recognizers: `python -m benchmarks.redaction`.

Both find personal data in the labelled strings of tests/corpus/redaction.txt. A span is right if it is the labelled
one, character for character. Presidio is optional: `pip install presidio-analyzer` in an environment of its own, with
this project installed; its recognizers of e-mail, IP addresses and telephone numbers run with their defaults. The last
line is JSON.
"""

import json
import logging
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from benchmarks.measuring import table
from homegrown.corpus.redaction import Kind, find

LABELED = Path(__file__).parents[1] / "tests" / "corpus" / "redaction.txt"
_MARK = re.compile(r"⟦(\w+):([^⟧]*)⟧")

Span = tuple[int, int]
Finder = Callable[[str, Kind], list[Span]]


def labeled() -> list[tuple[str, dict[Kind, set[Span]]]]:
    """Return the strings of the table without their marks, and the marked spans of each kind."""
    return [_unmarked(line) for line in LABELED.read_text(encoding="utf-8").splitlines() if not line.startswith("# ")]


def _unmarked(line: str) -> tuple[str, dict[Kind, set[Span]]]:
    text, spans, place = "", {kind: set[Span]() for kind in get_args(Kind)}, 0
    for mark in _MARK.finditer(line):
        text += line[place : mark.start()]
        spans[_kind(mark[1])].add((len(text), len(text) + len(mark[2])))
        text, place = text + mark[2], mark.end()
    return text + line[place:], spans


def _kind(name: str) -> Kind:
    return next(kind for kind in get_args(Kind) if kind == name)


def scores(finder: Finder) -> dict[Kind, tuple[int, int, int]]:
    """Return of each kind how many spans are right, found and labelled."""
    counts = dict.fromkeys(get_args(Kind), (0, 0, 0))
    for text, spans in labeled():
        for kind, right in spans.items():
            found = set(finder(text, kind))
            both, mine, theirs = counts[kind]
            counts[kind] = (both + len(found & right), mine + len(found), theirs + len(right))
    return counts


def presidio() -> Finder | None:
    """Return Presidio's finder, None if it is not installed."""
    if find_spec("presidio_analyzer") is None:
        return None
    from presidio_analyzer.predefined_recognizers import EmailRecognizer, IpRecognizer, PhoneRecognizer

    logging.disable(logging.CRITICAL)  # it reports that it does not reach a list of domains and uses its own
    recognizers = {
        "email": (EmailRecognizer(), "EMAIL_ADDRESS"),
        "ip": (IpRecognizer(), "IP_ADDRESS"),
        "phone": (PhoneRecognizer(), "PHONE_NUMBER"),
    }

    def find(text: str, kind: Kind) -> list[Span]:
        recognizer, entity = recognizers[kind]
        return [(one.start, one.end) for one in recognizer.analyze(text, [entity], None)]

    return find


def main() -> None:
    """Print a table of both, and the last line."""
    rows, found = [], dict[str, float]()
    for name, finder in (("ours", find), ("presidio", presidio())):
        if finder is None:
            continue
        for kind, (both, mine, theirs) in scores(finder).items():
            precision, recall = both / max(1, mine), both / max(1, theirs)
            rows.append((f"{name}, {kind}", str(theirs), f"{precision:.3f}", f"{recall:.3f}"))
            found |= {f"{name}_{kind}_precision": round(precision, 3), f"{name}_{kind}_recall": round(recall, 3)}
    table(f"{len(labeled())} labelled strings", ("what", "labelled", "precision", "recall"), rows)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
