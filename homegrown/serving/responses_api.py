"""OpenAI's newer API of text: the body of `/v1/responses`, its response and the events of its stream."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from homegrown.inference.streaming import Chunk
from homegrown.serving.fields import Fields, Int, Number, expected, translated
from homegrown.serving.refusal import Refused
from homegrown.serving.requests import ChatCompletionBody
from homegrown.serving.responses import Choice, plain_json
from homegrown.serving.service import Model

FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}
"""This API's names of the fields of a chat."""

_FIELDS = ("type", "role", "content", "id", "status", "phase")
_ROLES = ("system", "developer", "user", "assistant")
_TEXT = ("input_text", "output_text", "text")


class TextFormat(Fields):
    """What an answer consists of; the schema always holds (`strict`)."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    given: Any = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Fields):
    """The `text` of a request."""

    neutral: ClassVar[Mapping[str, Any]] = {"verbosity": "medium"}

    format: TextFormat | None = None


class ResponsesBody(Fields):
    """The body of `/v1/responses`."""

    without_effect = frozenset(
        {
            *("user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options"),
            *("parallel_tool_calls", "prompt_cache_retention", "max_tool_calls"),
            "tool_choice",  # tools are refused
        }
    )
    neutral: ClassVar[Mapping[str, Any]] = {
        "tools": [],
        "include": [],
        "reasoning": {},
        "truncation": "disabled",
        "background": False,
        "top_logprobs": 0,
    }

    model: str
    input: Annotated[
        str | Annotated[list[dict[str, Any]], Field(min_length=1)], expected("a string, or a list of messages")
    ]
    instructions: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Returned as it is."""
    max_output_tokens: Int | None = Field(None, ge=1)
    temperature: Number | None = None
    top_p: Number | None = None
    stream: bool = False
    text: TextOptions | None = None

    def translated(self) -> ChatCompletionBody:
        """Return the same request as a chat.

        Raises:
            Refused: an item of the input is not a message of text.
        """
        messages = [{"role": "system", "content": self.instructions}] if self.instructions else []
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        messages += [_message(item) for item in items]
        found = {"model": self.model, "messages": messages, "stream": self.stream, "temperature": self.temperature}
        found |= {"top_p": self.top_p, "max_tokens": self.max_output_tokens}
        if self.text is not None and self.text.format is not None:
            form = self.text.format
            if form.type == "json_schema" and form.given is None:
                raise Refused("text.format has no schema; add it.", "invalid", "text.format.schema")
            found["response_format"] = {"type": form.type, "schema": form.given}
        return translated(ChatCompletionBody, found, FIELDS)


def _message(item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type") or "message"
    if kind == "message" and "role" not in item:
        raise Refused("input has a message without a role; add it.", "invalid", "input")
    if kind != "message":
        message = f"input has an item of type {kind}, which is not supported; send messages of text."
        raise Refused(message, "invalid", "input")
    if unknown := next((name for name in item if name not in _FIELDS), None):
        raise Refused(f"Unsupported: {unknown} of a message of input; remove it.", "invalid", "input")
    if item["role"] not in _ROLES:
        raise Refused(f"input has an unknown role; use one of {', '.join(_ROLES)}.", "invalid", "input")
    content = item.get("content")
    if not isinstance(content, (str, list)):
        raise Refused("input has a message without text; give content.", "invalid", "input")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") in _TEXT for part in content):
            raise Refused("Only text content is supported; send parts of type input_text.", "invalid", "input")
        texts = [part.get("text") for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise Refused("input has a part without text; add it.", "invalid", "input")
        content = "".join(texts)
    return {"role": item["role"], "content": content}


class ResponsesObjects:
    """The objects of one response."""

    prompt_field = "input"
    media_type = "text/event-stream"
    tail = b""

    def __init__(self, model: Model, body: ResponsesBody):
        self._body, self._model = body, model
        self._id, self._item, self._created = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}", time.time()
        self._count = 0

    def complete(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """Return the complete response."""
        (choice,) = choices
        cut = choice.finish_reason == "length"
        spent = choice.completion_tokens
        return {
            **self._response("incomplete" if cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._output(choice.text, "incomplete" if cut else "completed")],
            "usage": {
                "input_tokens": prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": spent,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt_tokens + spent,
            },
        }

    def first(self, choice: Choice) -> list[dict[str, Any]]:
        """Return the events before the text."""
        begun = self._response("in_progress")
        empty = {**self._output("", "in_progress"), "content": []}
        return [
            self._event("created", response=begun),
            self._event("in_progress", response=begun),
            self._event("output_item.added", output_index=0, item=empty),
            self._event("content_part.added", **self._place(), part=_part("")),
        ]

    def chunk(self, choice: Choice, chunk: Chunk) -> bytes:
        """Return the event of a chunk, none without text."""
        if not chunk.text:
            return b""
        return self.frame(self._event("output_text.delta", **self._place(), delta=chunk.text, logprobs=[]))

    def last(self, choices: Sequence[Choice], prompt_tokens: int | None) -> list[dict[str, Any]]:
        """Return the events after the text."""
        response = self.complete(choices, prompt_tokens or 0)
        (item,) = response["output"]
        text = choices[0].text
        return [
            self._event("output_text.done", **self._place(), text=text, logprobs=[]),
            self._event("content_part.done", **self._place(), part=_part(text)),
            self._event("output_item.done", output_index=0, item=item),
            self._event(response["status"], response=response),
        ]

    def frame(self, value: dict[str, Any]) -> bytes:
        """Return an event as bytes."""
        if "error" in value and "type" not in value:
            self._count += 1
            value = {**value["error"], **value, "type": "error", "sequence_number": self._count - 1}
        name = value["type"]
        return f"event: {name}\ndata: {plain_json(value)}\n\n".encode()

    def _event(self, name: str, **fields: Any) -> dict[str, Any]:
        self._count += 1
        return {"type": f"response.{name}", "sequence_number": self._count - 1, **fields}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _output(self, text: str, status: str) -> dict[str, Any]:
        return {"type": "message", "id": self._item, "status": status, "role": "assistant", "content": [_part(text)]}

    def _response(self, status: str) -> dict[str, Any]:
        body = self._body
        form = body.text and body.text.format
        return {
            "id": self._id,
            "object": "response",
            "created_at": int(self._created),
            "status": status,
            "model": self._model.name,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata,
            "output": [],
            "parallel_tool_calls": True,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "tool_choice": "auto",
            "tools": [],
            "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}},
            "truncation": "disabled",
            "usage": None,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}
