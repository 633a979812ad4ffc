"""OpenAI's requests as this server takes them, checked at the edge.

What OpenAI's clients send and what changes nothing here (`user`, `store`, `metadata`) is ignored, as is what this
server does not know. What would change the answer and is not to be had is refused in a sentence.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from homegrown.inference.sampling import Sampling
from homegrown.serving.completion import Completion, Refused
from homegrown.tokenizer.chat import Message

MOST_CHOICES = 16
"""Texts that one request may ask for."""

_MOST_MESSAGES = 1024
_MOST_LIKELIEST = 20

_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class _Asked(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: "StreamOptions | None" = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _possible(self) -> "_Asked":
        if self.logit_bias:
            raise Refused("logit_bias is not to be had here; leave it out.", "invalid", "logit_bias")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> Sampling:
        """Return how tokens are chosen; OpenAI's defaults hold for what is not said."""
        names = ("top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(temperature=temperature, top_k=max(0, self.top_k or 0), **given)


class StreamOptions(BaseModel):
    """How a stream ends."""

    include_usage: bool = False


class TextRequest(_Asked):
    """The body of `/v1/completions`."""

    prompt: str | _Tokens | Annotated[list[str] | list[_Tokens], Field(min_length=1, max_length=MOST_CHOICES)] = ""
    max_tokens: int | None = Field(16, ge=1)
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = Field(None, ge=0, le=_MOST_LIKELIEST)

    @model_validator(mode="after")
    def _writable(self) -> "TextRequest":
        if self.suffix:
            raise Refused("suffix is not to be had: the model writes forwards only; leave it out.", "invalid", "suffix")
        if self.best_of is not None and self.best_of != self.n:
            raise Refused("best_of is not to be had; leave it out, and choose among n yourself.", "invalid", "best_of")
        if self.echo and self.logprobs is not None:
            raise Refused("echo has no log-probabilities of the prompt here; leave one of both out.", "invalid", "echo")
        if len(self.prompts) * self.n > MOST_CHOICES:
            sentence = (
                f"{len(self.prompts)} prompts with n = {self.n} are more than {MOST_CHOICES} texts; ask for fewer."
            )
            raise Refused(sentence, "invalid", "n")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Every prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]

    def completion(self, prompt: str | list[int], seed: int | None) -> Completion:
        """Return what is asked of the model for one choice."""
        return Completion(
            prompt=prompt,
            max_tokens=self.max_tokens,
            sampling=self.sampling(),
            stop=self.stops,
            seed=seed,
            logprobs=self.logprobs,
        )


class Part(BaseModel):
    """A part of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """A message as a client sends it; `developer` is OpenAI's newer word for `system`."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @field_validator("content")
    @classmethod
    def _text(cls, content: str | list[Part] | None) -> str | list[Part] | None:
        if isinstance(content, list) and any(part.type != "text" or part.text is None for part in content):
            raise Refused("The model reads text only; send parts of the type text.", "invalid", "messages")
        return content

    def message(self) -> Message:
        """Return it as the template takes it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text or "" for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatRequest(_Asked):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=_MOST_LIKELIEST)
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None

    @model_validator(mode="after")
    def _writable(self) -> "ChatRequest":
        if self.response_format and self.response_format.get("type") != "text":
            sentence = "response_format can be text only; ask for JSON in the prompt, and check what comes."
            raise Refused(sentence, "invalid", "response_format")
        if self.tools and self.tool_choice != "none":
            raise Refused("The model calls no tools; leave them out.", "invalid", "tools")
        if self.top_logprobs is not None and not self.logprobs:
            raise Refused("top_logprobs needs logprobs to be true.", "invalid", "top_logprobs")
        return self

    def completion(self, seed: int | None) -> Completion:
        """Return what is asked of the model for one choice."""
        return Completion(
            prompt=[message.message() for message in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens,
            sampling=self.sampling(),
            stop=self.stops,
            seed=seed,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
