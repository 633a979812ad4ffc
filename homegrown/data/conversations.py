"""The shapes of instruction data: their keys, and reading a record as a conversation."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from homegrown.config.finetune_recipe import Shape
from homegrown.tokenizer.chat import Message, Role, Tools


class Malformed(Exception):
    """A record is not a conversation; the message follows the name of its place."""


@dataclass(frozen=True)
class Conversation:
    """A record: its messages, the functions that the model may call, and the keys that were not read."""

    messages: list[Message]
    tools: Tools | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A preference: a prompt, its better and its worse answer.

    `held_out` is what the record says, None if it does not.
    """

    prompt: list[Message]
    chosen: Message
    rejected: Message
    tools: Tools | None = None
    ignored: tuple[str, ...] = ()
    held_out: bool | None = None


_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT_ROLES: Mapping[str, Role] = {
    **_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}

_REASONING = ("reasoning_content", "thinking", "reasoning")
_TRAINED = ("weight", "train", "label", "loss")
_ALWAYS_FLAGS = ("weight", "train")  # the others may be metadata of a record
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_TOOLS = ("tools", "functions")


def shape_of(record: object) -> Shape:
    """Return the first shape in `_SHAPES` whose keys a record has; raise Malformed if none matches."""
    fields = _fields(record)
    if shape := _known_shape(fields):
        return shape
    if fields.keys() >= {"chosen", "rejected"}:
        raise Malformed("is a preference (chosen, rejected); train on it with `homegrown dpo`")
    if isinstance(fields.get("text"), str):
        raise Malformed("is plain text (text); train on it with `homegrown adapt`")
    known = "; ".join(" and ".join(keys) for keys, _ in _SHAPES.values())
    raise Malformed(f"has the keys {_listed(fields)}, which match no known shape ({known})")


def _known_shape(fields: Mapping[str, Any]) -> Shape | None:
    return next((shape for shape, (keys, _) in _SHAPES.items() if fields.keys() >= set(keys)), None)


def conversation(record: object, shape: Shape) -> Conversation:
    """Return the conversation of a record: system messages, questions, answers and the results of tools.

    Raises Malformed.
    """
    fields = _Fields(_fields(record))
    keys, read = _SHAPES[shape]
    if missing := [key for key in keys if key not in fields.values]:
        raise Malformed(f"has no key {missing[0]!r}; its keys are {_listed(fields.values)}")
    messages, tools = read(fields), _tools(fields)
    if not fields.trained():
        messages = [replace(message, trained=False) for message in messages]
    _refuse_media(fields)
    check_order(messages)
    if not any(message.trained for message in messages if message.role == "assistant"):
        raise Malformed("has no answer to train on (weight, train or label)")
    return Conversation(messages, tools, fields.ignored())


def pair(record: object) -> Pair:
    """Return the preference of a record: `prompt`, `chosen` and `rejected`, or without a prompt of its own.

    Texts are a question and its answers; lists are messages, of which `chosen` and `rejected` may repeat the prompt.
    Without a prompt, it is what `chosen` and `rejected` begin with alike. Raises Malformed.
    """
    fields = _Fields(_fields(record))
    if not fields.values.keys() & {"chosen", "rejected"} and _known_shape(fields.values):
        raise Malformed("is a conversation without 'chosen' and 'rejected'; train on it with `homegrown finetune`")
    for key in ("chosen", "rejected"):
        if key not in fields.values:
            raise Malformed(f"has no key {key!r}; its keys are {_listed(fields.values)}")
    values = [fields.get(key) for key in ("chosen", "rejected")]
    if type(values[0]) is not type(values[1]):
        raise Malformed(f"has {_kind(values[0])} under 'chosen' and {_kind(values[1])} under 'rejected'")
    prompt: list[Message] | None = None
    if fields.get("prompt") is not None:
        prompt, fields.nested[len(fields.nested) :] = prompt_messages(fields.values["prompt"], "prompt")
    elif isinstance(values[0], str):
        prompt, *values = _shared_text(*(_text(fields.values, key) for key in ("chosen", "rejected")))
    answers = []
    for key, value in zip(("chosen", "rejected"), values, strict=True):
        messages, ignored = answer_messages(value, key)
        fields.nested += ignored
        answers.append(messages)
    prompt = [*_system(fields), *_prompt(prompt, *answers)]
    chosen, rejected = (messages[-1] for messages in answers)
    for answer in (chosen, rejected):
        check_order([*prompt, answer])
    if replace(chosen, content=chosen.content.strip()) == replace(rejected, content=rejected.content.strip()):
        raise Malformed("has the same answer under 'chosen' and 'rejected'")
    _refuse_media(fields)
    held_out = fields.get("held_out") if isinstance(fields.values.get("held_out"), bool) else None
    return Pair(prompt, chosen, rejected, _tools(fields), fields.ignored(), held_out)


def _prompt(prompt: list[Message] | None, chosen: Sequence[Message], rejected: Sequence[Message]) -> list[Message]:
    """Return the prompt of two lists of messages, which may repeat it before their last message."""
    if not chosen or not rejected:
        raise Malformed(f"has no message under {'rejected' if chosen else 'chosen'!r}")
    shared = list(chosen[:-1])
    if shared != list(rejected[:-1]):
        raise Malformed("has different prompts under 'chosen' and 'rejected'; only their last messages may differ")
    if not prompt and not shared:
        raise Malformed("has no prompt, and 'chosen' and 'rejected' begin differently")
    if not prompt:
        return shared
    if shared and shared[0].role == "assistant":
        return [*prompt, *shared]
    if shared and shared[-len(prompt) :] != prompt:
        raise Malformed("has another prompt under 'prompt' than in 'chosen' and 'rejected'")
    return shared or prompt


def _shared_text(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    """Return what two texts begin with alike, up to white space, as a question, and the rest of each."""
    most = min(len(chosen), len(rejected))
    end = next((place for place in range(most) if chosen[place] != rejected[place]), most)
    while end and not chosen[end - 1].isspace():
        end -= 1
    question = chosen[:end].strip()
    return [Message("user", question)] if question else [], chosen[end:].strip(), rejected[end:].strip()


def prompt_messages(value: object, key: str) -> tuple[list[Message], list[str]]:
    """Return the messages of a prompt, a text or a list of messages, and the keys that were not read.

    Raises Malformed.
    """
    if isinstance(value, list):
        ignored: list[str] = []
        return _turns(value, key, ("role", "content"), _ROLES, ignored), ignored
    return [Message("user", _text({key: value}, key))], []


def answer_messages(value: object, key: str) -> tuple[list[Message], list[str]]:
    """Return the messages of an answer, a text or a list of messages, and the keys that were not read.

    Raises Malformed.
    """
    if isinstance(value, list):
        return prompt_messages(value, key)
    return [Message("assistant", _text({key: value}, key))], []


class _Fields:
    """The keys of a record or message, and which of them are read."""

    def __init__(self, values: Mapping[str, Any], place: str = ""):
        self.values, self._place = values, place
        self._read: set[str] = set()
        self.nested: list[str] = []

    def get(self, key: str) -> Any:
        """Return a value, None without one, and mark its key as read."""
        self._read.add(key)
        return self.values.get(key)

    def trained(self) -> bool:
        """Return whether the loss covers the answers: no flag says otherwise."""
        kept = True
        for key in _TRAINED:
            value = self.values.get(key)
            if isinstance(value, (bool, int, float)) and value in (0, 1):
                self._read.add(key)
                kept = kept and bool(value)
            elif value is not None and (self._place or key in _ALWAYS_FLAGS):
                raise Malformed(f"has {json.dumps(value)[:40]} as {key!r}{self._place}; only 0 and 1 are supported")
        return kept

    def ignored(self) -> tuple[str, ...]:
        """Return the keys with a value that were not read, those of messages as `messages.KEY`."""
        own = [key for key, value in self.values.items() if key not in self._read and value is not None]
        return (*own, *self.nested)


def _fields(record: object) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise Malformed(f"is {_kind(record)} instead of an object with the keys of a conversation")
    return record


def _from_messages(record: _Fields) -> list[Message]:
    turns = record.get("messages")
    return [*_system(record), *_turns(turns, "messages", ("role", "content"), _ROLES, record.nested)]


def _from_sharegpt(record: _Fields) -> list[Message]:
    turns = record.get("conversations")
    names = ("from", "value")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "role" in turns[0]:
        names = ("role", "content")
    messages = _turns(turns, "conversations", names, _SHAREGPT_ROLES, record.nested)
    return [*_system(record), *messages]


def _from_pair(question: str, answer: str) -> Callable[[_Fields], list[Message]]:
    def read(record: _Fields) -> list[Message]:
        asked, ignored = prompt_messages(record.get(question), question)
        answered, more = answer_messages(record.get(answer), answer)
        record.nested += [*ignored, *more]
        return [*_system(record), *_history(record), *asked, *answered]

    return read


def _from_alpaca(record: _Fields) -> list[Message]:
    given = "" if record.get("input") is None else _text(record.values, "input")
    record.get("instruction"), record.get("output")
    question = _text(record.values, "instruction") + (f"\n\n{given}" if given else "")
    return [
        *_system(record),
        *_history(record),
        Message("user", question),
        Message("assistant", _text(record.values, "output")),
    ]


_SHAPES: dict[Shape, tuple[tuple[str, ...], Callable[[_Fields], list[Message]]]] = {
    "messages": (("messages",), _from_messages),
    "sharegpt": (("conversations",), _from_sharegpt),
    "prompt_completion": (("prompt", "completion"), _from_pair("prompt", "completion")),
    "alpaca": (("instruction", "output"), _from_alpaca),
    "question_answer": (("question", "answer"), _from_pair("question", "answer")),
}


def _system(record: _Fields) -> list[Message]:
    return [Message("system", _text(record.values, "system"))] if record.get("system") else []


def _history(record: _Fields) -> list[Message]:
    """Return the earlier exchanges of a record, [[question, answer], ...]; the loss does not cover them."""
    turns = record.get("history") or []
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise Malformed("has no list of [question, answer] under 'history'")
    return [
        message
        for question, answer in turns
        for message in (
            Message("user", _text({"history": question}, "history")),
            Message("assistant", _text({"history": answer}, "history"), trained=False),
        )
    ]


def _tools(record: _Fields) -> Tools | None:
    found = [value for key in _TOOLS if (value := record.get(key))]
    if not found:
        return None
    tools = _json(found[0])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Malformed("has no list of functions under 'tools'")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def _turns(
    turns: object, key: str, names: tuple[str, str], roles: Mapping[str, Role], ignored: list[str]
) -> list[Message]:
    if not isinstance(turns, list):
        raise Malformed(f"has {_kind(turns)} under {key!r} instead of a list of messages")
    messages = []
    for number, turn in enumerate(turns, start=1):
        which = f"message {number}"
        if not isinstance(turn, dict):
            raise Malformed(f"has {_kind(turn)} as {which} instead of an object")
        fields = _Fields(turn, f" of {which}")
        messages.append(_turn(fields, which, names, roles))
        _refuse_media(fields)
        ignored += [f"{key}.{name}" for name in fields.ignored()]
    return messages


def _turn(turn: _Fields, which: str, names: tuple[str, str], roles: Mapping[str, Role]) -> Message:
    role, content = (turn.get(name) for name in names)
    if names[0] not in turn.values:
        raise Malformed(f"has no {names[0]!r} in {which}; its keys are {_listed(turn.values)}")
    if not isinstance(role, str):
        raise Malformed(f"has {_kind(role)} as {names[0]!r} of {which} instead of text")
    if role not in roles:
        raise Malformed(f"has {role[:40]!r} as {names[0]!r} of {which}, which is not one of {', '.join(roles)}")
    calls = _calls(turn, which)
    if content is None and not calls and names[1] not in turn.values:
        raise Malformed(f"has no {names[1]!r} in {which}; its keys are {_listed(turn.values)}")
    given = [value for key in _REASONING if (value := turn.get(key))]
    message = Message(
        roles[role],
        "" if content is None and calls else _content(content, names[1], which),
        reasoning=_content(given[0], "reasoning", which) if given else None,
        tool_calls=calls,
        name=turn.get("name") if isinstance(turn.values.get("name"), str) else None,
        tool_call_id=turn.get("tool_call_id") if isinstance(turn.values.get("tool_call_id"), str) else None,
        trained=turn.trained(),
    )
    if message.role != "assistant" and (message.reasoning or message.tool_calls):
        raise Malformed(f"has reasoning or tool calls in {which}, which is not an answer")
    return message


def _content(value: object, name: str, which: str) -> str:
    """Return a text, or the text of a list of parts."""
    if isinstance(value, list):
        parts = list(_parts(value, name, which))
        return _encodable("".join(parts), which)
    if not isinstance(value, str):
        raise Malformed(f"has {_kind(value)} as {name!r} of {which} instead of text")
    return _encodable(value, which)


def _parts(parts: Sequence[object], name: str, which: str) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
            yield part["text"]
        else:
            kind = part.get("type") if isinstance(part, dict) else None
            raise Malformed(f"has a part of the type {kind!r} in {name!r} of {which}; only text is supported")


def _calls(turn: _Fields, which: str) -> tuple[Mapping[str, Any], ...]:
    """Return the tool calls of a message, their arguments as objects; OpenAI's older `function_call` is one."""
    calls, older = turn.get("tool_calls"), turn.get("function_call")
    if older:
        calls = [{"type": "function", "function": older}]
    if not calls:
        return ()
    calls = _json(calls)
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Malformed(f"has a tool call without the name of a function in {which}")
        function = function | {"arguments": _json(function.get("arguments", {}))}
        found.append({"type": "function"} | ({"id": call["id"]} if "id" in call else {}) | {"function": function})
    return tuple(found)


def _json(value: Any) -> Any:
    """Return a value that may be written as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _refuse_media(fields: _Fields) -> None:
    for key in _MEDIA:
        if fields.get(key):
            raise Malformed(f"has {key!r}; only text is supported")


def check_order(messages: Sequence[Message]) -> None:
    """Raise Malformed unless questions, results of tools and answers alternate, and an answer is last."""
    before: Message | None = None
    for number, message in enumerate(messages, start=1):
        which = f"message {number}"
        if message.role != "system":
            expected = _next(before)
            if message.role not in expected:
                raise Malformed(
                    f"has {which} from {message.role!r} where {' or '.join(map(repr, expected))} is expected"
                )
            if message.role != "tool" and not (message.content.strip() or message.tool_calls):
                raise Malformed(f"has an empty {'answer' if message.role == 'assistant' else 'question'} in {which}")
            before = message
        elif before is not None and before.role != "assistant":
            raise Malformed(f"has {which} from 'system' between a question and its answer")
    if before is None or before.role != "assistant" or messages[-1].role == "system":
        raise Malformed("ends without an answer")


def _next(before: Message | None) -> tuple[str, ...]:
    """Return the roles that may follow a message."""
    if before is None:
        return ("user",)
    if before.role == "assistant":
        return ("tool",) if before.tool_calls else ("user",)
    return ("assistant", "tool") if before.role == "tool" else ("assistant",)


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
