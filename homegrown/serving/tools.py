"""Tool calls: how a chat template writes them, the grammar that they fit, and their objects in OpenAI's responses.

For a template without tools, they are text in its messages, as in our own template.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

from homegrown.inference.grammar import checked, json_rule
from homegrown.serving.refusal import Refused
from homegrown.tokenizer.chat import Chat, Message, Tools
from homegrown.util.errors import UserError

_MAX_CALLS = 16
"""In one answer."""

_NAME, _ARGUMENTS = "sample_name", {"sample_key": "sample_value"}


@dataclass(frozen=True)
class CallFormat:
    """The text around the name and the arguments of each tool call of an answer."""

    before: str
    between: str
    after: str
    joint: str | None
    """From the arguments of a call to the name of the next; None if the template writes one call only."""
    described_in: Literal["template", "system", "user"] = "template"
    """Where tools are described; of a template without tools, the role of the message."""

    @property
    def trigger(self) -> str:
        """What shows that an answer calls tools: the tag before the first call, or all that precedes its name."""
        start = self.before.lstrip()
        return start.partition("{")[0].strip() or start


_DESCRIBED = "Functions, each called by JSON with name and arguments between <tool_call> and </tool_call>:"
_AS_TEXT = CallFormat(
    before='<tool_call>\n{"name": "',
    between='", "arguments": ',
    after="}\n</tool_call>",
    joint='}\n</tool_call>\n<tool_call>\n{"name": "',
)


@lru_cache(maxsize=64)
def call_format(chat: Chat) -> CallFormat:
    """Return how the template of a model writes tool calls, or how they are text in the messages of one without tools.

    Raises:
        Refused: it has tools, but does not write their calls as JSON.
    """
    tool = {"type": "function", "function": {"name": _NAME, "description": "", "parameters": {"type": "object"}}}
    question = Message("user", "sample question")
    try:
        if chat.render([question], reply=True) == chat.render([question], reply=True, tools=[tool]):
            return replace(_AS_TEXT, described_in="system" if _has_system(chat) else "user")
        one = _parts(chat.written([question, _answer(1)], tools=[tool]))
    except UserError as error:
        raise Refused(f"{error} Remove the tools.", "invalid", "tools") from None
    if len(one) != 3:
        raise Refused("The chat template does not write tool calls as JSON; remove the tools.", "invalid", "tools")
    try:
        two = _parts(chat.written([question, _answer(2)], tools=[tool]))
    except UserError:
        two = []
    return CallFormat(one[0], one[1], one[2], two[2] if len(two) == 5 else None)


def _has_system(chat: Chat) -> bool:
    instruction = "sample instruction"
    try:
        return instruction in chat.render([Message("system", instruction), Message("user", "sample question")])
    except UserError:
        return False


def for_template(chat: Chat, messages: Sequence[Message], tools: Tools | None) -> tuple[list[Message], Tools | None]:
    """Return the messages and the tools that the template of a model is given.

    One without tools is given none: their descriptions, calls and results are text of its messages. Results are in
    messages of the user, as in Hermes, because such templates need the roles to alternate.

    Raises:
        Refused: the template has tools, but does not write their calls as JSON.
    """
    if not (tools or any(message.role == "tool" or message.tool_calls for message in messages)):
        return list(messages), tools
    described_in = call_format(chat).described_in
    if described_in == "template":
        return list(messages), tools
    found: list[Message] = []
    for is_result, group in groupby(messages, lambda message: message.role == "tool"):
        if is_result:
            results = (f"<tool_response>\n{one.content}\n</tool_response>" for one in group)
            found.append(Message("user", "\n".join(results)))
        else:
            found += [_with_calls(message) for message in group]
    if tools:
        described = "\n".join([_DESCRIBED, *(json.dumps(tool, ensure_ascii=False) for tool in tools)])
        place = next((place for place, one in enumerate(found) if one.role == described_in), None)
        if place is None:
            found.insert(0, Message(described_in, described))
        else:
            texts = [found[place].content, described]
            content = "\n\n".join(texts if described_in == "system" else reversed(texts))
            found[place] = replace(found[place], content=content)
    return found, None


def _with_calls(message: Message) -> Message:
    """Return an answer whose calls are text."""
    calls = [
        f"<tool_call>\n{json.dumps(_called(call), ensure_ascii=False)}\n</tool_call>" for call in message.tool_calls
    ]
    return replace(message, content="\n".join([*([message.content] if message.content else []), *calls]), tool_calls=())


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}


def _answer(calls: int) -> Message:
    call = {"type": "function", "id": "call00000", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
    return Message("assistant", "", tool_calls=(call,) * calls)


def _parts(text: str) -> list[str]:
    """Split an answer at the names and the arguments of its calls, in turn."""
    parts = []
    while _NAME in text:
        before, _, text = text.partition(_NAME)
        form = next((one for one in _forms(_ARGUMENTS) if one in text), None)
        if form is None:
            return []
        between, _, text = text.partition(form)
        parts += [before, between]
    return [*parts, text]


def _forms(value: Any) -> list[str]:
    return [json.dumps(value), json.dumps(value, separators=(",", ":"))]


def call_grammar(form: CallFormat, tools: Mapping[str, Any], *, required: bool, parallel: bool) -> str:
    """Return the grammar of an answer that calls tools, whose parameters are `tools`; without `required`, or none.

    Raises:
        UserError: parameters are malformed.
    """
    calls, rules = [], []
    for number, (name, parameters) in enumerate(tools.items()):
        try:
            rules.append(f"arguments_{number}: {json_rule(parameters)}")
        except UserError as error:
            raise UserError(f"The tool {name}: {error}") from None
        calls.append(f"{_literal(name + form.between)} arguments_{number}")
    several = f" ({_literal(form.joint)} call){{0,{_MAX_CALLS - 1}}}" if parallel and form.joint is not None else ""
    rules += [f"calls: call{several} {_literal(form.after)}", f"call: {' | '.join(calls)}"]
    if required:
        start = f"start: {_literal(form.before)} calls"
    else:
        rest = form.before.lstrip().removeprefix(form.trigger)
        start = f"start: TEXT | trigger {_literal(rest)} calls\nTEXT: /(.|\\n)*/\n"
        start += f"trigger[lazy]: TEXT {_literal(form.trigger)}"
    return checked("\n".join([start, *rules]), "The tools")


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


class CallReader:
    """Divides an answer into text and tool calls as it is generated, and returns them as OpenAI's deltas."""

    def __init__(self, form: CallFormat, *, required: bool):
        """Read the output of a grammar; with `required`, it has calls only."""
        self._form, self._required, self._buffer = form, required, ""
        self._state = "text"
        self._scanned, self._depth, self._quoted, self._escaped = 0, 0, False, False
        self.content = ""
        self.calls: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        """Whether the calls so far are complete; a stop string can end one inside its arguments."""
        return self._state != "arguments"

    def feed(self, text: str, *, ended: bool = False) -> dict[str, Any]:
        """Take more of the answer, or its end; return the delta that is new."""
        self._buffer += text
        known, sent = len(self.calls), [len(call["function"]["arguments"]) for call in self.calls]
        content = self._read_text(ended) if self._state == "text" else ""
        while self._state != "text" and self._step():
            pass
        self.content += content
        delta: dict[str, Any] = {"content": content} if content else {}
        changes = []
        for index, call in enumerate(self.calls):
            if index >= known:
                changes.append({"index": index, **call, "function": dict(call["function"])})
            elif len(call["function"]["arguments"]) > sent[index]:
                changes.append(
                    {"index": index, "function": {"arguments": call["function"]["arguments"][sent[index] :]}}
                )
        return {**delta, "tool_calls": changes} if changes else delta

    def _read_text(self, ended: bool) -> str:
        """Return the text that precedes the trigger, as far as it is certain."""
        text, found, rest = self._buffer.partition(self._form.trigger)
        if found:
            before = self._form.before.lstrip().removeprefix(self._form.trigger)
            self._state, self._buffer = "name", rest
            self._expected = before
            return text.rstrip()
        # max_tokens can cut the tag of a call that was required: it is not text.
        kept = len(self._buffer) if self._required else 0 if ended else self._uncertain()
        text, self._buffer = self._buffer[: len(self._buffer) - kept], self._buffer[len(self._buffer) - kept :]
        return text

    def _uncertain(self) -> int:
        """Return how many characters at the end may belong to the trigger or to the white space before it."""
        trigger, longest = self._form.trigger, min(len(self._form.trigger) - 1, len(self._buffer))
        size = next((size for size in range(longest, 0, -1) if self._buffer.endswith(trigger[:size])), 0)
        before = self._buffer[: len(self._buffer) - size]
        return size + len(before) - len(before.rstrip())

    def _step(self) -> bool:
        """Read the next part of the calls; return whether it is complete."""
        if self._state == "name":
            name, found, rest = self._buffer.removeprefix(self._expected).partition(self._form.between)
            if not (found and self._buffer.startswith(self._expected)):
                return False
            call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
            self.calls.append({**call, "function": {"name": name, "arguments": ""}})
            self._state, self._buffer = "arguments", rest
            self._depth, self._quoted, self._escaped = 0, False, False
            return True
        if self._state == "arguments":
            end = self._arguments_end()
            self.calls[-1]["function"]["arguments"] += self._buffer[:end]
            complete = self._depth == 0 and end > 0
            self._buffer = self._buffer[end:]
            self._state = "joint" if complete else "arguments"
            return complete
        joint = self._form.joint
        if joint is None or not self._buffer.startswith(joint):
            return False
        self._state, self._expected, self._buffer = "name", "", self._buffer[len(joint) :]
        return True

    def _arguments_end(self) -> int:
        """Return how many characters of the buffer belong to the object that began with the arguments."""
        for place, character in enumerate(self._buffer):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._quoted = False
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    return place + 1
        return len(self._buffer)


def named(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parameters of tools by name; a function without parameters takes none.

    Raises:
        Refused: parameters are not those of an object.
    """
    found = {}
    for number, tool in enumerate(tools):
        function, field = tool["function"], f"tools.{number}.function.parameters.type"
        parameters = {"type": "object", **(function.get("parameters") or {"properties": {}})}
        if parameters["type"] != "object":
            raise Refused(f"{field} is {json.dumps(parameters['type'])}; give object.", "invalid", field)
        found[function["name"]] = parameters
    return found
