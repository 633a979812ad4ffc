"""The completions to rate, from evaluations and fine-tunings, blind and shuffled."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.util.errors import UserError
from homegrown.util.files import read_parquet
from homegrown.util.seeds import derive

HUMAN = "the documents' own"
"""The system of the held-out documents themselves: their scores are the scale for all others."""

AUTHOR = "the examples' own"
"""The same for held-out questions: the reference answers."""

_MODELS = {"evaluate": ("pretrain",), "answers": ("finetune", "model"), "win-rate": ("dpo", "model")}
"""The stages that have completions to rate, each with the names of the inputs that are the model."""


@dataclass(frozen=True)
class Item:
    """A completion to rate, and all systems that wrote exactly this after this prompt; raters see no `systems`."""

    id: str
    prompt: str
    text: str
    systems: tuple[str, ...]


def with_completions(store: Store, name: str) -> Artifact:
    """Return the evaluation or answers of this name; for the name of a model, the newest of the model.

    Raises:
        UserError: the name is unknown, or it has no completions.
    """
    found = store.resolve(name)
    if found.manifest.stage in _MODELS:
        return found
    for one in reversed(store.all()):
        inputs = one.manifest.inputs
        if found.manifest.key in (inputs.get(model) for model in _MODELS.get(one.manifest.stage, ())):
            return one
    raise UserError(
        f"{found.name} has no completions to rate; name a version of evaluate, answers or win-rate, or "
        "a model that has one."
    )


def items_of(artifacts: Sequence[Artifact], documents: int) -> list[Item]:
    """Return the completions of the first `documents` documents of each evaluation, or questions of each answers.

    A completion that several systems wrote is rated once, for all of them. A system is named `evaluate@3/int8` or
    `answers@1/fine-tuned`; the references are systems too.
    """
    texts: dict[tuple[str, str], set[str]] = {}
    for artifact in artifacts:
        rows = _continued if artifact.manifest.stage == "evaluate" else _answered
        for prompt, text, system in rows(artifact, documents):
            texts.setdefault((prompt, text), set()).add(system)
    return [Item(_id(prompt, text), prompt, text, tuple(sorted(by))) for (prompt, text), by in texts.items()]


def _continued(artifact: Artifact, documents: int) -> Iterator[tuple[str, str, str]]:
    """Yield prompt, completion and system of an evaluation."""
    columns = ["variant", "document", "prompt", "reference", "continuation"]
    for row in read_parquet(artifact.path / "continuations", columns).to_pylist():
        if row["document"] < documents:
            yield row["prompt"], row["continuation"], f"{artifact.name}/{row['variant']}"
            yield row["prompt"], row["reference"], HUMAN


def _answered(artifact: Artifact, questions: int) -> Iterator[tuple[str, str, str]]:
    """Yield question, answer and system of a fine-tuning."""
    columns = ["question", "author", "before", "after"]
    for row in read_parquet(artifact.path / "samples", columns).to_pylist()[:questions]:
        prompt = f"{row['question']}\n\n"
        yield prompt, row["before"], f"{artifact.name}/base"
        yield prompt, row["after"], f"{artifact.name}/fine-tuned"
        yield prompt, row["author"], AUTHOR


def shuffled(items: Sequence[Item], rater: str) -> list[Item]:
    """Return the items in an order of the rater's own, so that fatigue affects other completions for each rater."""
    ordered = sorted(items, key=lambda item: item.id)
    random.Random(derive(0, "rating", rater)).shuffle(ordered)
    return ordered


def _id(prompt: str, text: str) -> str:
    return hashlib.sha256(f"{len(prompt)}\0{prompt}{text}".encode()).hexdigest()[:16]
