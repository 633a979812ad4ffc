"""What is to be rated: texts of evaluations, blind and shuffled."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from homegrown.artifacts import Artifact
from homegrown.errors import UserError
from homegrown.files import read_parquet
from homegrown.seeds import derive

HUMAN = "the documents' own"
"""The system that wrote the held-out text itself: what a rater gives it is the scale for everything else."""

_COLUMNS = ["variant", "document", "prompt", "reference", "continuation"]


@dataclass(frozen=True)
class Item:
    """One text to rate, and everything that wrote exactly this text after this prompt; raters see no `systems`."""

    id: str
    prompt: str
    text: str
    systems: tuple[str, ...]


def items_of(evaluations: Sequence[Artifact], documents: int) -> list[Item]:
    """Return the texts with which every variant, and the author, continued the first `documents` documents of each.

    A text that several variants wrote is rated once, for all of them. A system is named `evaluate@3/int8`.

    Raises:
        UserError: an artifact holds no continuations.
    """
    texts: dict[tuple[str, str], set[str]] = {}
    for artifact in evaluations:
        if not (artifact.path / "continuations").is_dir():
            raise UserError(f"{artifact.name} holds no continuations to rate; name a version of evaluate.")
        for row in read_parquet(artifact.path / "continuations", _COLUMNS).to_pylist():
            if row["document"] < documents:
                texts.setdefault((row["prompt"], row["continuation"]), set()).add(f"{artifact.name}/{row['variant']}")
                texts.setdefault((row["prompt"], row["reference"]), set()).add(HUMAN)
    return [Item(_id(prompt, text), prompt, text, tuple(sorted(by))) for (prompt, text), by in texts.items()]


def shuffled(items: Sequence[Item], rater: str) -> list[Item]:
    """Return the items in an order that depends on the rater alone, so that tiredness falls on other texts for each."""
    ordered = sorted(items, key=lambda item: item.id)
    random.Random(derive(0, "rating", rater)).shuffle(ordered)
    return ordered


def _id(prompt: str, text: str) -> str:
    return hashlib.sha256(f"{len(prompt)}\0{prompt}{text}".encode()).hexdigest()[:16]
