"""The shapes of instruction data: their required keys, and reading a record as a conversation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from homegrown.config.finetune_recipe import Shape
from homegrown.tokenizer.chat import Message

Role = Literal["system", "user", "assistant"]


class Malformed(Exception):
    """A record is not a conversation; the message follows the name of its place."""


_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: Mapping[str, Role] = {**_ROLES, "human": "user", "gpt": "assistant"}


def shape_of(record: object) -> Shape:
    """Return the first shape in `_SHAPES` whose keys a record has; raise Malformed if none matches."""
    fields = _fields(record)
    for shape, (keys, _) in _SHAPES.items():
        if fields.keys() >= set(keys):
            return shape
    known = "; ".join(" and ".join(keys) for keys, _ in _SHAPES.values())
    raise Malformed(f"has the keys {_listed(fields)}, which match no known shape ({known})")


def conversation(record: object, shape: Shape) -> list[Message]:
    """Return the messages of a record: an optional system message, then alternating questions and answers.

    Raises Malformed.
    """
    fields = _fields(record)
    keys, read = _SHAPES[shape]
    if missing := [key for key in keys if key not in fields]:
        raise Malformed(f"has no key {missing[0]!r}; its keys are {_listed(fields)}")
    messages = read(fields)
    _check(messages)
    return messages


def _fields(record: object) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise Malformed(f"is {_kind(record)} instead of an object with the keys of a conversation")
    return record


def _from_messages(record: Mapping[str, Any]) -> list[Message]:
    return _turns(record["messages"], "messages", ("role", "content"), _ROLES)


def _from_sharegpt(record: Mapping[str, Any]) -> list[Message]:
    return _turns(record["conversations"], "conversations", ("from", "value"), _SHAREGPT_ROLES)


def _from_pair(question: str, answer: str) -> Callable[[Mapping[str, Any]], list[Message]]:
    def read(record: Mapping[str, Any]) -> list[Message]:
        return [Message("user", _text(record, question)), Message("assistant", _text(record, answer))]

    return read


def _from_alpaca(record: Mapping[str, Any]) -> list[Message]:
    given = _text(record, "input") if record.get("input") is not None else ""
    question = _text(record, "instruction") + (f"\n\n{given}" if given else "")
    return [Message("user", question), Message("assistant", _text(record, "output"))]


_SHAPES: dict[Shape, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], list[Message]]]] = {
    "messages": (("messages",), _from_messages),
    "sharegpt": (("conversations",), _from_sharegpt),
    "prompt_completion": (("prompt", "completion"), _from_pair("prompt", "completion")),
    "alpaca": (("instruction", "output"), _from_alpaca),
    "question_answer": (("question", "answer"), _from_pair("question", "answer")),
}


def _turns(turns: object, key: str, names: tuple[str, str], roles: Mapping[str, Role]) -> list[Message]:
    if not isinstance(turns, list):
        raise Malformed(f"has {_kind(turns)} under {key!r} instead of a list of messages")
    return [_turn(turn, f"message {number}", names, roles) for number, turn in enumerate(turns, start=1)]


def _turn(turn: object, which: str, names: tuple[str, str], roles: Mapping[str, Role]) -> Message:
    if not isinstance(turn, dict):
        raise Malformed(f"has {_kind(turn)} as {which} instead of an object")
    for name in names:
        if name not in turn:
            raise Malformed(f"has no {name!r} in {which}; its keys are {_listed(turn)}")
        if not isinstance(turn[name], str):
            raise Malformed(f"has {_kind(turn[name])} as {name!r} of {which} instead of text")
    role, content = (turn[name] for name in names)
    if role not in roles:
        raise Malformed(f"has {role[:40]!r} as {names[0]!r} of {which}, which is not one of {', '.join(roles)}")
    return Message(roles[role], _encodable(content, which))


def _check(messages: Sequence[Message]) -> None:
    """Raise Malformed unless questions and answers alternate, after at most one system message."""
    before = 1 if messages and messages[0].role == "system" else 0
    for number, message in enumerate(messages[before:]):
        which, expected = f"message {before + number + 1}", "assistant" if number % 2 else "user"
        if message.role != expected:
            raise Malformed(f"has {which} from {message.role!r} where {expected!r} is expected")
        if not message.content.strip():
            raise Malformed(f"has an empty {'answer' if number % 2 else 'question'} in {which}")
    if len(messages) == before or (len(messages) - before) % 2:
        raise Malformed("ends without an answer")


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise Malformed(f"has {_kind(value)} under {key!r} instead of text")
    return _encodable(value, repr(key))


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"has a lone surrogate in {where}") from None
    return text


def _kind(value: object) -> str:
    """Return the JSON name of the type of a value."""
    if value is None:
        return "null"
    for kinds, name in (((str,), "text"), ((list,), "a list"), ((dict,), "an object"), ((bool,), "true or false")):
        if isinstance(value, kinds):
            return name
    return "a number"


def _listed(record: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(record)[:10]))[:300] or "none"
