"""The words of the project: phrases that its readers stumble over are in no text that it shows, and in no source."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

READ = (
    *("homegrown/**/*.py", "tasks/**/*.py", "flows/**/*.py", "docs/**/*.md", "*.md", "data/*.md", "artifacts/*.md"),
    *("pipelines.yaml", "Makefile"),
)
"""What people read: help, messages, pages, docstrings, comments and documentation."""

PHRASES = (
    r"what its maker",
    r"surviv\w+ a kill",
    r"(go(es)?|gone|going|went) on (from|with|learning|training|where|by)",
    r"(is|are|be|been|was|were) told",
    r"(in|is|are|ends? with|by|with) (one|a) (clear )?sentence",
    r"likeliest",
    r"(?<!-)\broom\b(?!s)",
    r"\bheld(?! ?-| out)\b",
    r"\bwhole\b(?! number)",
    r"\bmend(s|ed|ing)?\b",
    r"\bwish(es|ed)?\b",
    r"\b(have|has|having) (a|an|the|it|them|its|each) (\w+ ){1,2}(learn|continue|write|run|say|send|end|begin)\b",
    r"\bst(ands?|ood) (in|on|for|beside|by|there|at|side)\b",
    r"\bis no (number|model|table|folder|file|name|kind|type|setting|stage|value|token|text|prose|module|key|more)\b",
    r"\b(again and again|far too high)\b",
    r"not to be had",
    r"\bthere (is|are) none\b",
    r"\bthe (one|version|run|attempt) before( it)?\b",
    r"\bends by\b",
    r"what is asked( of)?\b",
    r"\bwho waits\b",
    r"made by hand|by_hand",
    r"\bgone on\b|\bconduct\b|(?-i:\bSubject\b)",
)
"""The left column of the glossary: what each stands for is said plainly instead."""

FOUND = re.compile("|".join(f"(?:{phrase})" for phrase in PHRASES), re.IGNORECASE)


def places(pattern: str) -> list[str]:
    """Return `file:line: the line` for every phrase in the files of a glob."""
    found = []
    for file in sorted(ROOT.glob(pattern)):
        if "egg-info" in file.parts:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if FOUND.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    return found


@pytest.mark.parametrize("pattern", READ)
def test_no_phrase_of_the_old_dialect_is_left(pattern: str) -> None:
    assert not places(pattern)


if __name__ == "__main__":  # python tests/test_words.py 'homegrown/serving/**/*.py'
    for argument in sys.argv[1:] or READ:
        print("\n".join(places(argument)))
