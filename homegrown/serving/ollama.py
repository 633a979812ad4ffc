"""Ollama's API: its requests as those of OpenAI's shape, and its responses, a line of JSON each in a stream."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from homegrown.inference.streaming import Chunk
from homegrown.serving.fields import Fields, Int, Number, expected, translated
from homegrown.serving.refusal import Refused
from homegrown.serving.requests import MAX_CHOICES, ChatCompletionBody, CompletionBody
from homegrown.serving.responses import Choice, plain_json
from homegrown.serving.service import Model

_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's, where they differ from OpenAI's."""


class Options(Fields):
    """The options of a request; those of the machine change nothing here."""

    without_effect = frozenset(
        {
            *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv", "use_mmap"),
            *("use_mlock", "vocab_only", "num_keep"),
            *("mirostat_eta", "mirostat_tau"),  # without mirostat, they have no effect
        }
    )
    neutral: ClassVar[Mapping[str, Any]] = {"mirostat": 0, "tfs_z": 1}

    num_predict: Int | None = None
    repeat_penalty: Number | None = None
    repeat_last_n: Int | None = None
    seed: Int | None = None
    stop: Any = None
    temperature: Number | None = None
    top_k: Int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None

    def fields(self) -> dict[str, Any]:
        """Return OpenAI's fields.

        Raises:
            Refused: penalties are to cover the last tokens only.
        """
        given = self.model_dump(exclude_none=True)
        penalties = (self.repeat_penalty or 1, self.frequency_penalty or 0, self.presence_penalty or 0)
        if given.pop("repeat_last_n", _ALL_TOKENS) != _ALL_TOKENS and penalties != (1, 0, 0):
            field = "options.repeat_last_n"
            raise Refused(
                f"{field} is {self.repeat_last_n}, but penalties cover all tokens; give -1.", "invalid", field
            )
        limit, penalty = given.pop("num_predict", None), given.pop("repeat_penalty", None)
        given |= {} if limit is None or limit < 0 else {"max_tokens": limit}
        given |= {} if penalty is None else {"repetition_penalty": penalty}
        if self.seed == _RANDOM_SEED:
            del given["seed"]
        return {**_DEFAULTS, **given}


_RANDOM_SEED, _ALL_TOKENS = -1, -1
"""Ollama's seed of requests without one, and its repeat_last_n for the complete context."""

_NAMES = {name: f"options.{name}" for name in Options.model_fields} | {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
}
"""Ollama's names of OpenAI's fields."""


_NO_TIME = r"[+-]?0+(\.0*)?(ns|us|µs|ms|s|m|h)?"
"""The durations of nothing in Ollama's form."""


class _Ollama(Fields):
    neutral: ClassVar[Mapping[str, Any]] = {
        "think": False,
        "images": [],
        "context": [],
        "shift": False,
        "suffix": "",
        "template": "",
        "truncate": False,
        "logprobs": False,
        "top_logprobs": 0,
    }

    model: str
    stream: bool = True
    keep_alive: Annotated[str | Number | None, expected("seconds, or a duration such as 5m")] = None
    """Changes nothing: a model stays loaded until the server ends."""
    format: Any = None
    options: Options = Field(default_factory=Options)

    @property
    def unlimited(self) -> bool:
        """Whether the output can fill the context."""
        return self.options.num_predict is None or self.options.num_predict < 0

    @property
    def without_prompt(self) -> Literal["load", "unload"]:
        """What a request without a prompt is for."""
        return "unload" if re.fullmatch(_NO_TIME, str(self.keep_alive)) else "load"

    def _common(self) -> dict[str, Any]:
        found = {"model": self.model, "stream": self.stream, **self.options.fields()}
        found["stream_options"] = {"include_usage": True}
        if self.format == "json":
            found["response_format"] = {"type": "json_object"}
        elif isinstance(self.format, dict):
            found["guided_json"] = self.format
        elif self.format not in (None, ""):
            raise Refused("format: Give json or a JSON schema.", "invalid", "format")
        return found


class GenerateBody(_Ollama):
    """The body of `/api/generate`."""

    prompt: str = ""
    system: str | None = None
    raw: bool = False

    def translated(self) -> ChatCompletionBody | CompletionBody:
        """Return the same request in OpenAI's shape: a completion if it is `raw`, otherwise a chat."""
        if self.raw:
            if self.system:
                raise Refused("system is not supported with raw; put it in the prompt.", "invalid", "system")
            return translated(CompletionBody, {**self._common(), "prompt": self.prompt}, _NAMES)
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = [*system, {"role": "user", "content": self.prompt}]
        return translated(ChatCompletionBody, {**self._common(), "messages": messages}, _NAMES)


class ChatBody(_Ollama):
    """The body of `/api/chat`."""

    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None

    def translated(self) -> ChatCompletionBody:
        """Return the same request in OpenAI's shape."""
        messages = []
        for number, sent in enumerate(self.messages):
            message = {name: value for name, value in sent.items() if value not in (None, [], "") or name == "content"}
            if "tool_calls" in message:
                with suppress(AttributeError, KeyError, TypeError):  # a malformed one is refused below
                    calls = enumerate(message["tool_calls"])
                    message["tool_calls"] = [_call(f"call_{number}_{place}", call) for place, call in calls]
            if "tool_name" in message:
                message["name"] = message.pop("tool_name")
            messages.append(message)
        fields = {**self._common(), "messages": messages, "tools": self.tools}
        return translated(ChatCompletionBody, fields, _NAMES)


def _call(name: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call in OpenAI's shape, whose arguments are text; `name` is its id if the client has none."""
    function = call["function"]
    arguments = json.dumps(function.get("arguments") or {})
    return {"id": call.get("id") or name, "function": {"name": function.get("name"), "arguments": arguments}}


class ShowBody(Fields):
    """The body of `/api/show`."""

    without_effect = frozenset({"verbose"})

    model: str | None = None
    name: str | None = None
    """Its older name."""

    @property
    def shown(self) -> str:
        """The model; raises Refused without one."""
        if found := self.model or self.name:
            return found
        raise Refused("model is missing; add it.", "invalid", "model")


_Text = Annotated[str, Field(min_length=1)]


class EmbedBody(Fields):
    """The body of `/api/embed`."""

    without_effect = frozenset({"keep_alive"})

    model: str
    options: Options | None = None
    """Change nothing, because nothing is generated."""
    input: Annotated[
        _Text | Annotated[list[_Text], Field(min_length=1, max_length=MAX_CHOICES)],
        expected(f"a text, or a list of 1 to {MAX_CHOICES}; none can be empty"),
    ]
    truncate: bool = True

    @property
    def texts(self) -> list[str]:
        """All texts."""
        return [self.input] if isinstance(self.input, str) else self.input


def embedded(model: Model, vectors: Sequence[Sequence[float]], tokens: int, start: int) -> dict[str, Any]:
    """Return the response of `/api/embed`; `start` is the time of the request in nanoseconds."""
    return {
        "model": model.name,
        "embeddings": vectors,
        "total_duration": perf_counter_ns() - start,
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }


class OllamaObjects:
    """The objects of one response."""

    media_type = "application/x-ndjson"
    tail = b""

    def __init__(self, model: Model, kind: Literal["chat", "generate"]):
        self._model, self._kind, self._start = model, kind, perf_counter_ns()
        self.prompt_field = "messages" if kind == "chat" else "prompt"

    def complete(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """Return the response to a request without `stream`."""
        (choice,) = choices
        text = choice.text if choice.reader is None else choice.reader.content
        said = self._said(text, _calls(choice))
        return {**self._head(), **said, **self._end(choice, prompt_tokens)}

    def first(self, choice: Choice) -> list[dict[str, Any]]:
        """Return what precedes the output."""
        return []

    def chunk(self, choice: Choice, chunk: Chunk) -> bytes:
        """Return a line of a stream, none without text."""
        text = choice.delta.get("content", "")
        return self.frame({**self._head(), **self._said(text), "done": False}) if text else b""

    def last(self, choices: Sequence[Choice], prompt_tokens: int | None) -> list[dict[str, Any]]:
        """Return the end of a stream."""
        (choice,) = choices
        calls = _calls(choice)
        said = [{**self._head(), **self._said("", calls), "done": False}] if calls else []
        return [*said, {**self._head(), **self._said(""), **self._end(choice, prompt_tokens or 0)}]

    def frame(self, value: dict[str, Any]) -> bytes:
        """Return a part of a stream as bytes; an error is its message alone."""
        value = {"error": value["error"]["message"]} if "error" in value else value
        return plain_json(value).encode() + b"\n"

    def _head(self) -> dict[str, Any]:
        return {"model": self._model.name, "created_at": _now()}

    def _said(self, text: str, calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        if self._kind == "generate":
            return {"response": text}
        return {"message": {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}}

    def _end(self, choice: Choice, prompt_tokens: int) -> dict[str, Any]:
        end = perf_counter_ns()
        first = choice.begun or end
        return {
            "done": True,
            "done_reason": choice.finish_reason,
            "total_duration": end - self._start,
            "load_duration": 0,
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": first - self._start,
            "eval_count": choice.completion_tokens,
            "eval_duration": max(1, end - first),  # clients divide by it
        }


def empty(model: Model, kind: Literal["chat", "generate"], reason: Literal["load", "unload"]) -> dict[str, Any]:
    """Return the response to a request without a prompt, with which clients load or unload a model."""
    said = {"response": ""} if kind == "generate" else {"message": {"role": "assistant", "content": ""}}
    return {"model": model.name, "created_at": _now(), **said, "done": True, "done_reason": reason}


def tag(model: Model, name: str) -> dict[str, Any]:
    """Return a model as `/api/tags` lists it."""
    created = datetime.fromtimestamp(model.created, UTC).isoformat()
    return {"name": name, "model": name, "modified_at": created, "size": 0, "digest": "", "details": _details()}


def shown(model: Model, context: int, template: str, *, tools: bool) -> dict[str, Any]:
    """Return a model as `/api/show` describes it; `tools` tells whether its template supports them."""
    return {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "details": _details(),
        "model_info": {"general.architecture": "homegrown", "homegrown.context_length": context},
        "capabilities": ["completion", *(["tools"] if tools else [])],
        "modified_at": datetime.fromtimestamp(model.created, UTC).isoformat(),
    }


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "",
        "family": "homegrown",
        "families": ["homegrown"],
        "parameter_size": "",
        "quantization_level": "",
    }


def _calls(choice: Choice) -> list[dict[str, Any]]:
    """Return the complete tool calls of an answer, with their arguments as objects."""
    found = []
    for call in choice.reader.calls if choice.reader else ():
        try:
            arguments = json.loads(call["function"]["arguments"])
        except (ValueError, RecursionError):
            continue  # max_tokens ended it; done_reason says so
        found.append({"function": {"name": call["function"]["name"], "arguments": arguments}})
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
