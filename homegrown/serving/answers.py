"""OpenAI's answers: objects of `/v1`, whole and as pieces of a stream, as plain JSON values."""

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from homegrown.serving.completion import Delta, Token, Written
from homegrown.serving.service import Model

_LEAST = -9999.0
"""What OpenAI writes for the logarithm of nothing; JSON has no infinity."""


@dataclass
class Choice:
    """One text of an answer, as it grows."""

    index: int
    prompt: str = ""
    """Goes before the text (`echo`)."""
    text: str = ""
    tokens: list[Written] = field(default_factory=list)
    count: int = 0
    finish: str | None = None

    def add(self, delta: Delta) -> None:
        """Take what was written."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.count, self.finish = delta.count, delta.finish


def usage(choices: Sequence[Choice], prompt_tokens: int) -> dict[str, int]:
    """Return the tokens of a request and of all its texts; the prompt of several texts counts once."""
    written = sum(choice.count for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


class Form:
    """One kind of answer: its names, its choices, and its head, which all pieces of a stream share."""

    def __init__(self, model: str, *, chat: bool, logprobs: bool):
        """`logprobs` says whether they were asked for."""
        self._chat, self._logprobs = chat, logprobs
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """Return the answer of a request that was not streamed."""
        kind = "chat.completion" if self._chat else "text_completion"
        found = [self._choice(choice, choice.prompt + choice.text, choice.tokens) for choice in choices]
        return {**self._head, "object": kind, "choices": found, "usage": usage(choices, prompt_tokens)}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """Return what a stream begins with for a choice: who speaks, or the prompt if it is to come back."""
        if self._chat:
            return self._piece([self._streamed(choice, {"role": "assistant", "content": ""}, None, None)])
        return self._piece([self._streamed(choice, choice.prompt, None, None)]) if choice.prompt else None

    def piece(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        """Return a piece of a stream, None if there is nothing to say."""
        if not (delta.text or delta.tokens or delta.finish):
            return None
        text = {"content": delta.text} if self._chat and delta.text else {} if self._chat else delta.text
        logprobs = self._shape(delta.tokens, len(choice.text) - len(delta.text)) if delta.tokens else None
        return self._piece([self._streamed(choice, text, logprobs, delta.finish)])

    def last(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """Return the piece with the number of tokens."""
        return {**self._piece([]), "usage": usage(choices, prompt_tokens)}

    def _piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _streamed(self, choice: Choice, text: Any, logprobs: Any, finish: str | None) -> dict[str, Any]:
        name = "delta" if self._chat else "text"
        return {"index": choice.index, name: text, "logprobs": logprobs, "finish_reason": finish}

    def _choice(self, choice: Choice, text: str, tokens: Sequence[Written]) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
        logprobs = self._shape(tokens, 0) if self._logprobs else None
        return {"index": choice.index, **said, "logprobs": logprobs, "finish_reason": choice.finish}

    def _shape(self, tokens: Sequence[Written], offset: int) -> dict[str, Any]:
        return _as_chat(tokens) if self._chat else _as_text(tokens, offset)


def _as_chat(tokens: Sequence[Written]) -> dict[str, Any]:
    def one(token: Token) -> dict[str, Any]:
        return {"token": _string(token), "logprob": _finite(token.logprob), "bytes": list(token.data)}

    content = [{**one(written.token), "top_logprobs": list(map(one, written.likeliest))} for written in tokens]
    return {"content": content, "refusal": None}


def _as_text(tokens: Sequence[Written], offset: int) -> dict[str, Any]:
    strings = [_string(written.token) for written in tokens]
    offsets = []
    for string in strings:
        offsets.append(offset)
        offset += len(string)
    return {
        "tokens": strings,
        "token_logprobs": [_finite(written.token.logprob) for written in tokens],
        "top_logprobs": [
            {_string(token): _finite(token.logprob) for token in (*written.likeliest, written.token)}
            for written in tokens
        ],
        "text_offset": offsets,
    }


def _string(token: Token) -> str:
    """Return a token as text; one that is a part of a character is shown by its bytes, as OpenAI does."""
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _LEAST


def model_object(model: Model) -> dict[str, Any]:
    """Return a model as `/v1/models` lists it."""
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "homegrown"}


def error_object(sentence: str, kind: str, setting: str | None, code: str | None) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": sentence, "type": kind, "param": setting, "code": code}}
