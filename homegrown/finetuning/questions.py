"""Held-out questions from the stage `instructions`."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from homegrown.tokenizer.chat import Message


@dataclass(frozen=True)
class Question:
    """A conversation up to its first answer, and that reference answer."""

    messages: list[Message]
    answer: str

    @property
    def text(self) -> str:
        """The last message before the answer."""
        return self.messages[-1].content


def held_out(instructions: Path, most: int) -> list[Question]:
    """Return up to `most` held-out questions, evenly spaced; the same on each call."""
    found = [
        question
        for path in sorted((instructions / "held_out").glob("*.parquet"))
        for messages in pq.read_table(path, columns=["messages"])["messages"].to_pylist()
        if (question := _question([Message(**message) for message in messages]))
    ]
    most = min(most, len(found))
    return [found[place * len(found) // most] for place in range(most)]


def _question(messages: list[Message]) -> Question | None:
    roles = [message.role for message in messages]
    if "assistant" not in roles[1:]:
        return None
    first = roles.index("assistant")
    return Question(messages[:first], messages[first].content) if first else None
