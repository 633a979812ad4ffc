"""The messages and tools of a conversation, as clients send them and as chat templates read them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, field_validator

from homegrown.serving.fields import Fields, expected
from homegrown.serving.refusal import Refused
from homegrown.tokenizer.chat import Message, Role

_MAX_MESSAGES = 1024


class ContentPart(BaseModel):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Function(Fields):
    """A function that a model may call; its parameters always hold (`strict`)."""

    without_effect = frozenset({"strict"})

    name: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), expected("1 to 64 letters, digits, _ . or -")
    ]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Fields):
    """A tool that a model may call."""

    type: Literal["function"]
    function: Function


class FunctionName(Fields):
    """The name of a function."""

    name: str


class NamedTool(Fields):
    """A tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(Fields):
    """A function and its arguments, as JSON."""

    name: str
    arguments: str = "{}"


class Call(Fields):
    """A tool call of an earlier answer."""

    without_effect = frozenset({"index"})

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """Return it as chat templates read it, with the arguments as an object."""
        try:
            arguments = json.loads(self.function.arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            message = (
                f"The arguments of {self.function.name} are not an object of JSON; send them as the answer had them."
            )
            raise Refused(message, "invalid", "messages")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ChatMessage(Fields):
    """A message as a client sends it; `developer` is OpenAI's newer word for `system`."""

    without_effect = frozenset({"annotations", "id", "refusal"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    name: str | None = None
    tool_calls: Annotated[list[Call], Field(max_length=_MAX_MESSAGES)] = Field(default_factory=list)
    tool_call_id: str | None = None
    content: Annotated[str | list[ContentPart] | None, expected("text, or a list of parts of type text")] = None

    @field_validator("content")
    @classmethod
    def _text(cls, content: str | list[ContentPart] | None) -> str | list[ContentPart] | None:
        if isinstance(content, list) and any(part.type != "text" or part.text is None for part in content):
            raise Refused("Only text content is supported; send parts of type text.", "invalid", "messages")
        return content

    def message(self) -> Message:
        """Return it as the chat template takes it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text or "" for part in content)
        calls = tuple(call.plain() for call in self.tool_calls)
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, text, tool_calls=calls, name=self.name, tool_call_id=self.tool_call_id)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]


def conversation(sent: Sequence[ChatMessage]) -> list[Message]:
    """Return messages as the chat template takes them; those of a tool have the name of its function.

    Raises:
        Refused: a message of a tool answers no call, the arguments of a call are not JSON, or a field is missing or of
            another role.
    """
    names: dict[str, str] = {}
    found = []
    for number, one in enumerate(sent):
        message = one.message()
        if one.content is None and one.role in ("system", "developer", "user"):
            field = f"messages.{number}.content"
            raise Refused(f"{field} is missing; add it.", "invalid", field)
        for name, role in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
            if getattr(one, name) and one.role != role:
                field = f"messages.{number}.{name}"
                raise Refused(f"{field} is only for the role {role}; remove it.", "invalid", field)
        if one.role == "tool" and (answered := one.tool_call_id):
            if answered not in names:
                field = f"messages.{number}.tool_call_id"
                raise Refused(f"{field}: No earlier answer has a call {answered}; send its id.", "invalid", field)
            message = replace(message, name=one.name or names[answered])
        names |= {call.id: call.function.name for call in one.tool_calls}
        found.append(message)
    return found
