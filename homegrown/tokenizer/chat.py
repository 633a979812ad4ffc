"""Conversations as tokens: the chat template of a model, its stop tokens, and what an answer consists of."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from homegrown.tokenizer.chat_files import ChatFiles, load_files
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.special import special_ids, token_text
from homegrown.tokenizer.template import Clock, Refused, Template
from homegrown.util.errors import UserError

Role = Literal["system", "user", "assistant", "tool"]

_MARKERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters of Unicode, never part of a text's meaning
_THINK_END = "</think>"
_OURS = ChatFiles()


@dataclass(frozen=True)
class Message:
    """A message of a conversation.

    `reasoning` precedes the content of an answer. `tool_calls` are OpenAI's objects of the type `function`, their
    arguments an object; `name` and `tool_call_id` belong to the message of a tool. `trained`: whether the loss covers
    the answer.
    """

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    trained: bool = True

    def plain(self) -> dict[str, Any]:
        """Return the message as templates read it; a missing value has no key."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            found |= {"reasoning_content": self.reasoning, "thinking": self.reasoning}
        if self.tool_calls:
            found |= {"tool_calls": [dict(call) for call in self.tool_calls]}
            if not self.content:
                del found["content"]
        found |= {} if self.name is None else {"name": self.name}
        return found | ({} if self.tool_call_id is None else {"tool_call_id": self.tool_call_id})


Tools = Sequence[Mapping[str, Any]]
"""Functions that a model may call, as JSON schemas in OpenAI's form."""


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """Return the messages after the default system message, unless they start with one of their own."""
    if system is None or (messages and messages[0].role == "system"):
        return list(messages)
    return [Message("system", system), *messages]


@dataclass(frozen=True)
class Sample:
    """A conversation as a training sequence: ids, uint32 [tokens], and loss mask, bool [tokens].

    `cuts` has, for each answer, the number of tokens and of messages up to its end.
    """

    ids: npt.NDArray[np.uint32]
    learned: npt.NDArray[np.bool_]
    cuts: tuple[tuple[int, int], ...]

    def shortened(self, most: int) -> "Sample | None":
        """Return the sequence up to the last answer that ends within `most` tokens; None if the first does not."""
        fitting = [cut for cut in self.cuts if cut[0] <= most]
        if not fitting:
            return None
        end = fitting[-1][0]
        return self if end == len(self.ids) else Sample(self.ids[:end], self.learned[:end], tuple(fitting))


class Chat:
    """The chat format of a model: its template, or ChatML without one.

    The text of a special token in a message stays text, so that no message can forge another. Other added tokens, such
    as `<think>` in some vocabularies, are tokens in messages too.
    """

    def __init__(self, tokenizer: Tokenizer, files: ChatFiles = _OURS, *, clock: Clock = datetime.now):
        """Take a tokenizer of `homegrown.tokenizer.loading.load` and the chat files beside it."""
        self.tokenizer, self.files, self.system = tokenizer, files, files.system
        self.borrowed = files.template is not None
        """Whether the template came with the model, instead of being ours."""
        self._clock = clock
        added = {number: token for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._special = {token.content: (number, token.lstrip, token.rstrip) for number, token in added.items()}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    @cached_property
    def template(self) -> str:
        """The Jinja template; raises UserError if the model has none and its tokenizer lacks the tokens of ChatML."""
        if self.files.template is not None:
            return self.files.template
        if not self.supported:
            raise UserError("The model has no chat template; fine-tune it on conversations, or name another model.")
        return default_template(self.tokenizer)

    @property
    def supported(self) -> bool:
        """Whether the model has a template, its own or ours."""
        marks = special_ids(self.tokenizer)
        return self.borrowed or (marks.message_start is not None and marks.message_end is not None)

    @cached_property
    def new_tokens(self) -> list[int]:
        """The tokens that the model has not learned yet: those of our template, and those added to the vocabulary."""
        if self.borrowed:
            return self.added_tokens
        marks = special_ids(self.tokenizer)
        own = [number for number, token in self.tokenizer.get_added_tokens_decoder().items() if not token.special]
        found = (marks.message_start, marks.message_end, *own, *self.added_tokens)
        return sorted({token for token in found if token is not None})

    @property
    def added_tokens(self) -> list[int]:
        """The tokens that were added to the vocabulary of a base."""
        found = [self.tokenizer.token_to_id(token) for token in self.files.added]
        return [token for token in found if token is not None]

    @cached_property
    def export_template(self) -> str:
        """The template with the default system message, for runtimes that know nothing else of the model."""
        if self.system is None:
            return self.template
        message = f"{{'role': 'system', 'content': {_literal(self.system)}}}"
        return (
            "{% if not messages or messages[0]['role'] != 'system' %}"
            f"{{% set messages = [{message}] + messages %}}{{% endif %}}{self.template}"
        )

    @cached_property
    def turn_end(self) -> int | None:
        """The special token that the template puts after an answer, None without one."""
        try:
            text = self.render([Message("user", "a"), Message("assistant", "b")])
        except UserError:
            return None
        found = self._pattern.search(text, text.rindex("b")) if self._pattern and "b" in text else None
        return self._special[found[0]][0] if found else None

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer or a document; every export lists them, or output would never end."""
        named = self.tokenizer.token_to_id(self.files.tokens.get("eos_token", ""))
        found = [special_ids(self.tokenizer).eos, self.turn_end, named, *self.files.stop]
        return frozenset(token for token in found if token is not None)

    def render(self, messages: Sequence[Message], *, reply: bool = False, tools: Tools | None = None) -> str:
        """Return the text of the messages; with `reply`, followed by the start of an answer.

        Raises:
            Refused: the template does not support the conversation.
            UserError: the model has no template.
        """
        plain = [message.plain() for message in messages]
        variables = self.files.tokens or _variables(self.tokenizer)
        return self._compiled.render(plain, reply=reply, tools=tools, variables=variables)

    def encode(self, messages: Sequence[Message], *, reply: bool, tools: Tools | None = None) -> list[int]:
        """Return the ids of `render`. Raises as it does."""
        marked, tools, marker = self._marked(messages, tools)
        return self._ids(self.render(marked, reply=reply, tools=tools), marker, _exact(self.tokenizer))

    def encode_continued(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation whose last message is the beginning of an answer. Raises as `render`."""
        (*marked, begun), _, marker = self._marked(messages, None)
        return self._ids(self.render(marked, reply=True) + begun.content, marker, _exact(self.tokenizer))

    def samples(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        encode: Callable[[str], npt.NDArray[np.uint32]],
    ) -> list[Sample]:
        """Return a conversation as sequences that contain each trained answer once, after what precedes it in use.

        An answer is what the template renders after the prompt for it, up to and including a stop token. One sequence
        has all answers if the template only appends; a template that changes earlier messages, as by dropping their
        reasoning, gives a sequence for each such answer. `encode` encodes plain text.

        Raises:
            Refused: the template does not support the conversation, or an answer does not follow its prompt.
            UserError: the model has no template.
        """
        marked, tools, marker = self._marked(messages, tools)
        growing: list[_Growing] = []
        for number, message in enumerate(marked, start=1):
            if message.role != "assistant":
                continue
            before = self.render(marked[: number - 1], reply=True, tools=tools)
            after = self.render(marked[:number], tools=tools)
            text = before + _written(before, after, marked[:number])
            self._check(marked[:number], before, after, tools)
            if not growing or not text.startswith(growing[-1].text):
                growing.append(_Growing())
            growing[-1].add(text, len(before), self._answer_end(text, len(before)), message.trained, number)
        return [
            one.sample(lambda text: self._ids(text, marker, lambda piece: encode(piece).tolist()))
            for one in growing
            if one.trained
        ]

    def written(self, messages: Sequence[Message], *, tools: Tools | None = None) -> str:
        """Return the last message, an answer, as the model writes it: with reasoning and tool calls, no stop token.

        Raises:
            Refused: the template does not support the conversation.
        """
        before, after = self.render(messages[:-1], reply=True, tools=tools), self.render(messages, tools=tools)
        text = _written(before, after, messages)
        text = text[: self._answer_end(text, 0)]
        return self._pattern.sub("", text) if self._pattern else text

    @cached_property
    def _compiled(self) -> Template:
        return Template(self.template, self._clock)

    def _answer_end(self, text: str, start: int) -> int:
        """Return the end of the first stop token in `text` from `start` on, or of the text without one."""
        found = self._pattern.finditer(text, start) if self._pattern else iter(())
        return next((one.end() for one in found if self._special[one[0]][0] in self.stop_ids), len(text))

    def _check(self, messages: Sequence[Message], before: str, after: str, tools: Tools | None) -> None:
        """Raise Refused for a part of a conversation that the template leaves out of the last answer or its prompt."""
        *history, answer = messages
        for position, message in enumerate(history, start=1):
            if message.role != "assistant" and not _within(message.content, before):
                raise Refused(f"The chat template leaves out message {position}, of the role {message.role}.")
        if not _within(answer.content.rpartition(_THINK_END)[2], after):
            raise Refused(f"The chat template leaves out message {len(messages)}, of the role assistant.")
        if tools and self.render(history, reply=True) == before:
            raise Refused("The chat template does not support tools.")
        for has, without, what in (
            (answer.reasoning, replace(answer, reasoning=None), "reasoning"),
            (answer.tool_calls, replace(answer, tool_calls=()), "tool calls"),
        ):
            if has and self.render([*history, without], tools=tools) == after:
                raise Refused(f"The chat template does not support {what} (message {len(messages)}).")

    def _marked(
        self, messages: Sequence[Message], tools: Tools | None
    ) -> tuple[Sequence[Message], Tools | None, str | None]:
        """Return messages and tools in which a marker interrupts the text of special tokens, and that marker."""
        if not self._pattern:
            return messages, tools, None
        values = [[message.plain() for message in messages], list(tools or ())]
        texts = list(_strings(values))
        if not any(map(self._pattern.search, texts)):
            return messages, tools, None
        marker = next(one for one in _MARKERS if not any(one in text for text in texts))
        pattern = self._pattern

        def mark(value: Any) -> Any:
            if isinstance(value, str):
                return pattern.sub(lambda found: f"{found[0][0]}{marker}{found[0][1:]}", value)
            if isinstance(value, Mapping):
                return {key: mark(one) for key, one in value.items()}
            return [mark(one) for one in value] if isinstance(value, (list, tuple)) else value

        marked = [
            replace(
                message,
                content=mark(message.content),
                reasoning=mark(message.reasoning),
                tool_calls=tuple(mark(message.tool_calls)),
            )
            for message in messages
        ]
        return marked, None if tools is None else mark(tools), marker

    def _ids(self, text: str, marker: str | None, encode: Callable[[str], list[int]]) -> list[int]:
        """Return the ids of a rendered text, its special tokens those that no marker interrupts."""
        pieces = self._pattern.split(text) if self._pattern else [text]
        ids: list[int] = []
        for place in range(0, len(pieces), 2):
            piece = pieces[place]
            if place and self._special[pieces[place - 1]][2]:
                piece = piece.lstrip()
            if place + 1 < len(pieces) and self._special[pieces[place + 1]][1]:
                piece = piece.rstrip()
            if piece:
                ids += encode(piece if marker is None else piece.replace(marker, ""))
            if place + 1 < len(pieces):
                ids.append(self._special[pieces[place + 1]][0])
        return ids


def _written(before: str, after: str, messages: Sequence[Message]) -> str:
    """Return what the last message adds to the prompt for it, given the rendered prompt and conversation.

    They may differ in what precedes the message before the last, as where a template has the system message in the last
    question only; the prompt is what a model sees.

    Raises:
        Refused: the conversation does not continue the prompt.
    """
    if after.startswith(before):
        return after[len(before) :]
    low, high = 0, len(before)  # the longest end of the prompt that the conversation contains
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if before[-middle:] in after else (low, middle - 1)
    shared = before[len(before) - low :]
    if not shared or messages[-2].content.strip() not in shared:
        raise Refused(
            f"The chat template does not render message {len(messages)} as a continuation of the prompt for it, which "
            f"ends in {before[-20:]!r}."
        )
    return after[after.rindex(shared) + len(shared) :]


class _Growing:
    """A sequence of turns under construction: its text, and where its answers are."""

    def __init__(self) -> None:
        self.text = ""
        self._answers: list[tuple[int, int, bool, int, int]] = []

    @property
    def trained(self) -> bool:
        """Whether the loss covers any answer."""
        return any(trained for _, _, trained, _, _ in self._answers)

    def add(self, text: str, start: int, end: int, trained: bool, messages: int) -> None:
        """Extend the sequence to `text`, in which an answer lies from `start` to `end`, after `messages` messages."""
        self.text = text
        self._answers.append((start, end, trained, len(text), messages))

    def sample(self, ids: Callable[[str], list[int]]) -> Sample:
        """Return the tokens; an answer is encoded by itself, as a model writes it."""
        found: list[int] = []
        learned: list[bool] = []
        cuts: list[tuple[int, int]] = []
        done = 0
        for start, end, trained, turn_end, messages in self._answers:
            # What an earlier turn ends with is encoded together with what follows it.
            for text, mask in ((self.text[done:start], False), (self.text[start:end], trained)):
                tokens = ids(text)
                found += tokens
                learned += [mask] * len(tokens)
            cuts.append((len(found) + len(ids(self.text[end:turn_end])), messages))
            done = end
        rest = ids(self.text[done:])
        ids_array = np.array([*found, *rest], dtype=np.uint32)
        return Sample(ids_array, np.array([*learned, *[False] * len(rest)], dtype=np.bool_), tuple(cuts))


_CHATML = (
    "{bos}{% if tools %}{{ '{start}system\\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ 'Functions, each called by JSON with name and arguments between <tool_call> and </tool_call>:\\n' }}"
    "{% for tool in tools %}{{ (tool | tojson) + '\\n' }}{% endfor %}{{ '{end}\\n' }}{% endif %}"
    "{% for message in messages %}{% if not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '{start}' + message['role'] + '\\n' }}"
    "{% if message['reasoning_content'] %}"
    "{{ '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}{{ '\\n<tool_call>\\n' }}"
    "{{ {'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson }}"
    "{{ '\\n</tool_call>' }}{% endfor %}{{ '{end}\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '{start}assistant\\n' }}{% endif %}"
)


def default_template(tokenizer: Tokenizer) -> str:
    """Return our template: ChatML after the start token, if any, with tools as in Hermes and reasoning as in Qwen3."""
    marks = special_ids(tokenizer)
    assert marks.message_start is not None and marks.message_end is not None
    opening = "" if marks.bos is None else f"{{{{ '{token_text(tokenizer, marks.bos)}' }}}}"
    source = _CHATML.replace("{bos}", opening).replace("{start}", token_text(tokenizer, marks.message_start))
    return source.replace("{end}", token_text(tokenizer, marks.message_end))


def load_chat(folder: Path, tokenizer: Tokenizer | None = None, *, clock: Clock = datetime.now) -> Chat:
    """Return the chat format of the model in `folder`, whose tokenizer may be loaded already.

    Raises:
        UserError: a file is missing or damaged.
    """
    return Chat(load(folder) if tokenizer is None else tokenizer, load_files(folder), clock=clock)


def _variables(tokenizer: Tokenizer) -> dict[str, str]:
    marks = special_ids(tokenizer)
    named = {"bos_token": marks.bos, "eos_token": marks.eos}
    return {name: token_text(tokenizer, token) for name, token in named.items() if token is not None}


def _exact(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(one)


def _within(part: str, text: str) -> bool:
    """Return whether a text contains a part as it is or as a JSON string, without the white space around it."""
    part = part.strip()
    return part in text or any(json.dumps(part, ensure_ascii=ascii)[1:-1] in text for ascii in (False, True))


def _literal(text: str) -> str:
    """Return a Jinja string literal with escaped line breaks: Jinja would normalize raw ones."""
    for character, escape in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return f"'{text}'"
