"""Held-out questions from the stage `instructions`."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from homegrown.data.instructions import held_out_message
from homegrown.tokenizer.chat import Message, Tools


@dataclass(frozen=True)
class Question:
    """A conversation up to its first answer, and that reference answer."""

    messages: list[Message]
    reference: Message
    tools: Tools | None = None

    @property
    def text(self) -> str:
        """The last message before the answer."""
        return self.messages[-1].content


def held_out(instructions: Path, most: int) -> list[Question]:
    """Return up to `most` held-out questions, evenly spaced; the same on each call."""
    found = [
        question
        for path in sorted((instructions / "held_out").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
        if (question := _question([held_out_message(message) for message in row["messages"]], row.get("tools")))
    ]
    most = min(most, len(found))
    return [found[place * len(found) // most] for place in range(most)]


def held_out_pairs(preferences: Path, most: int) -> list[tuple[Question, Message]]:
    """Return up to `most` held-out prompts with the chosen answer, and the rejected one; evenly spaced."""
    found = [
        (
            Question(
                [held_out_message(message) for message in row["messages"]],
                held_out_message(row["chosen"][0]),
                json.loads(row["tools"]) if row["tools"] else None,
            ),
            held_out_message(row["rejected"][0]),
        )
        for path in sorted((preferences / "held_out").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    most = min(most, len(found))
    return [found[place * len(found) // most] for place in range(most)]


def _question(messages: list[Message], tools: str | None) -> Question | None:
    roles = [message.role for message in messages]
    if "assistant" not in roles[1:]:
        return None
    first = roles.index("assistant")
    return Question(messages[:first], messages[first], json.loads(tools) if tools else None) if first else None
