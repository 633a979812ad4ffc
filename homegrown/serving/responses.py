"""OpenAI's response objects, complete and as chunks of a stream, as plain JSON values."""

import json
import math
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
from starlette.responses import JSONResponse

from homegrown.inference.engine import FinishReason
from homegrown.inference.streaming import Chunk, TextToken, prompt_tokens
from homegrown.serving.service import Model
from homegrown.serving.tools import CallReader

plain_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns a value as JSON in one line, without escapes of other alphabets."""

_MIN_LOGPROB = -9999.0
"""OpenAI's value for the logarithm of zero; JSON has no infinity."""


@dataclass
class Choice:
    """One completion of a response, as it grows."""

    index: int
    prompt: str = ""
    """Begins the text (`echo`)."""
    prompt_ids: Sequence[int] = ()
    """The prompt's tokens, if they are to have log-probabilities; the text then begins with the first chunk."""
    text: str = ""
    tokens: list[TextToken] = field(default_factory=list)
    completion_tokens: int = 0
    begun: int | None = None
    """Time of the first chunk in nanoseconds."""
    finish_reason: FinishReason | None = None
    reader: CallReader | None = None
    """Finds the tool calls of an answer that may have some."""
    delta: dict[str, Any] = field(default_factory=dict)
    """What the last chunk added to the text and the tool calls that the reader has found."""

    def __post_init__(self) -> None:
        self.text = "" if self.prompt_ids else self.prompt

    def add(self, chunk: Chunk, table: Sequence[bytes]) -> Chunk:
        """Append a chunk; return it with the positions of its tokens in the text, and with the prompt if it is due."""
        self.begun = self.begun or time.perf_counter_ns()
        if chunk.tokens or chunk.prompt_logprobs:
            chunk = self._placed(chunk, table)
        self.text += chunk.text
        self.tokens += chunk.tokens
        self.completion_tokens, self.finish_reason = chunk.completion_tokens, chunk.finish_reason
        if self.reader is not None:
            self.delta = self.reader.feed(chunk.text, ended=chunk.finish_reason is not None)
        elif chunk.text:
            self.delta = {"content": chunk.text}
        else:
            self.delta = {}
        return chunk

    def _placed(self, chunk: Chunk, table: Sequence[bytes]) -> Chunk:
        shift = len(self.prompt)
        tokens = tuple(replace(token, offset=token.offset + shift) for token in chunk.tokens)
        if not chunk.prompt_logprobs:
            return replace(chunk, tokens=tokens)
        tokens = (*prompt_tokens(self.prompt_ids, chunk.prompt_logprobs, table), *tokens)
        return replace(chunk, tokens=tokens, text=self.prompt + chunk.text)

    @property
    def reason(self) -> str | None:
        """The finish reason in OpenAI's words."""
        reader = self.reader
        calls = reader is not None and reader.calls and reader.complete and self.finish_reason == "stop"
        return "tool_calls" if calls else self.finish_reason

    @property
    def message(self) -> dict[str, Any]:
        """The complete message of a chat."""
        said = {"role": "assistant", "content": self.text, "refusal": None}
        if self.reader is None:
            return said
        calls = {"content": self.reader.content or None, "tool_calls": self.reader.calls} if self.reader.calls else {}
        return {**said, "content": self.reader.content, **calls}


def usage(choices: Sequence[Choice], prompt_tokens: int) -> dict[str, int]:
    """Return the token counts of a response; the prompt of several choices counts once."""
    completion_tokens = sum(choice.completion_tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Objects(Protocol):
    """The objects of one response in the shape of an API, as plain JSON values."""

    prompt_field: str
    """The field of the prompt in error messages."""
    media_type: str
    """Of a stream."""
    tail: bytes
    """Ends a stream."""

    def complete(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """Return the response to a request without `stream`."""

    def first(self, choice: Choice) -> list[dict[str, Any]]:
        """Return the first parts of a stream, of one choice."""

    def chunk(self, choice: Choice, chunk: Chunk) -> bytes:
        """Return the parts of a stream that a chunk of output becomes, often none."""

    def last(self, choices: Sequence[Choice], prompt_tokens: int | None) -> list[dict[str, Any]]:
        """Return the last parts of a stream, with the token counts unless `prompt_tokens` is None."""

    def frame(self, value: dict[str, Any]) -> bytes:
        """Return a part of a stream as bytes."""


class ResponseObjects:
    """The objects of one response: of a chat or a completion, with the fields that all chunks of a stream share."""

    media_type = "text/event-stream"
    tail = b"data: [DONE]\n\n"

    def __init__(self, model: Model, *, chat: bool, logprobs: bool):
        """`logprobs` tells whether the request asks for them."""
        self._chat, self._logprobs, self._token_bytes = chat, logprobs, model.token_bytes
        self.prompt_field = "messages" if chat else "prompt"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model.name,
        }
        self._around = cache(self._frame_around)

    def complete(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """Return the response to a request without `stream`."""
        kind = "chat.completion" if self._chat else "text_completion"
        found = [self._choice(choice, choice.text, choice.tokens) for choice in choices]
        return {**self._head, "object": kind, "choices": found, "usage": usage(choices, prompt_tokens)}

    def first(self, choice: Choice) -> list[dict[str, Any]]:
        """Return the first chunk of a choice: the role of a chat, or the prompt with `echo`."""
        if self._chat:
            return [self._chunk([self._delta(choice.index, {"role": "assistant", "content": ""}, None, None)])]
        return [self._chunk([self._delta(choice.index, choice.text, None, None)])] if choice.text else []

    def chunk(self, choice: Choice, chunk: Chunk) -> bytes:
        """Return a chunk of a stream as bytes, none if it is empty."""
        if not (choice.delta or chunk.tokens or chunk.finish_reason):
            return b""
        if not (chunk.tokens or chunk.finish_reason or "tool_calls" in choice.delta):
            before, after = self._around(choice.index)
            return before + plain_json(choice.delta["content"]).encode() + after
        text = choice.delta if self._chat else chunk.text
        logprobs = self._shape(chunk.tokens) if chunk.tokens else None
        return self.frame(self._chunk([self._delta(choice.index, text, logprobs, choice.reason)]))

    def _frame_around(self, index: int) -> tuple[bytes, bytes]:
        """Return what precedes and follows the text in the chunks of a choice that have nothing else."""
        mark = "\0"
        text = {"content": mark} if self._chat else mark
        before, _, after = self.frame(self._chunk([self._delta(index, text, None, None)])).rpartition(
            plain_json(mark).encode()
        )
        return before, after

    def last(self, choices: Sequence[Choice], prompt_tokens: int | None) -> list[dict[str, Any]]:
        """Return the chunk with the token counts, if they are due."""
        return [] if prompt_tokens is None else [{**self._chunk([]), "usage": usage(choices, prompt_tokens)}]

    def frame(self, value: dict[str, Any]) -> bytes:
        """Return a chunk as a server-sent event."""
        return b"data: " + plain_json(value).encode() + b"\n\n"

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _delta(self, index: int, text: Any, logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
        name = "delta" if self._chat else "text"
        return {"index": index, name: text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _choice(self, choice: Choice, text: str, tokens: Sequence[TextToken]) -> dict[str, Any]:
        body = {"message": choice.message} if self._chat else {"text": text}
        logprobs = self._shape(tokens) if self._logprobs else None
        return {"index": choice.index, **body, "logprobs": logprobs, "finish_reason": choice.reason}

    def _shape(self, tokens: Sequence[TextToken]) -> dict[str, Any]:
        return (_chat_logprobs if self._chat else _completion_logprobs)(tokens, self._token_bytes)


def _chat_logprobs(tokens: Sequence[TextToken], token_bytes: Callable[[int], bytes]) -> dict[str, Any]:
    def one(data: bytes, logprob: float | None) -> dict[str, Any]:
        return {"token": _string(data), "logprob": _finite(logprob), "bytes": list(data)}

    content = [
        {
            **one(token.data, token.logprob),
            "top_logprobs": [one(token_bytes(top), logprob) for top, logprob in token.top_logprobs],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _completion_logprobs(tokens: Sequence[TextToken], token_bytes: Callable[[int], bytes]) -> dict[str, Any]:
    def top(token: TextToken) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        own = (token.id, token.logprob)
        return {_string(token_bytes(one)): _finite(logprob) for one, logprob in (*token.top_logprobs, own)}

    return {
        "tokens": [_string(token.data) for token in tokens],
        "token_logprobs": [None if token.logprob is None else _finite(token.logprob) for token in tokens],
        "top_logprobs": [top(token) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def _string(data: bytes) -> str:
    """Return a token as text; part of a character is shown by its bytes, as OpenAI does."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else _MIN_LOGPROB


def model_object(model: Model, name: str) -> dict[str, Any]:
    """Return a model as `/v1/models` lists it, under its name or an alias."""
    return {"id": name, "object": "model", "created": model.created, "owned_by": "homegrown"}


def embeddings_object(model: Model, vectors: Sequence[Sequence[float]], tokens: int, *, base64: bool) -> dict[str, Any]:
    """Return the response of `/v1/embeddings`; in base64, a vector is float32 in little-endian order."""

    def shown(vector: Sequence[float]) -> Any:
        return b64encode(np.array(vector, dtype="<f4").tobytes()).decode() if base64 else list(vector)

    data = [{"object": "embedding", "index": index, "embedding": shown(one)} for index, one in enumerate(vectors)]
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model.name, "usage": counts}


def error_object(message: str, kind: str, field: str | None, code: str | None) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    # They can have names that were sent, in which half of a surrogate pair has no bytes.
    shown = [text and text.encode(errors="backslashreplace").decode() for text in (message, field)]
    return {"error": {"message": shown[0], "type": kind, "param": shown[1], "code": code}}


def error_response(
    path: str, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the response with an error of OpenAI's shape, or on Ollama's routes of theirs, its message alone."""
    shown = {"error": body["error"]["message"]} if path.startswith("/api/") else body
    return JSONResponse(shown, status, headers)
