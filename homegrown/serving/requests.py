"""The bodies of OpenAI's requests and vLLM's, and the engine's requests that they become."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from homegrown.inference.engine import Request
from homegrown.inference.grammar import Grammar, choice_grammar, json_grammar, regex_grammar, text_grammar
from homegrown.inference.sampling import MAX_TOP_K, MAX_VALUE, Sampling
from homegrown.serving.fields import Fields, Int, Number, Tokens, expected
from homegrown.serving.messages import Messages, NamedTool, Tool
from homegrown.serving.refusal import Refused
from homegrown.serving.tools import CallFormat, call_grammar, named
from homegrown.util.errors import UserError

MAX_CHOICES = 64
"""Maximum choices of a request: prompts times `n`."""

_MAX_TOP_LOGPROBS = 20
_BAN = -100
"""The logit_bias that bans a token."""

_Choices = Annotated[list[str], Field(min_length=1)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_Stops = Annotated[
    _Stop | Annotated[list[_Stop], Field(max_length=16)] | None,
    expected("a string or at most 16 strings, each of 1 to 256 characters"),
]
_Bias = Annotated[
    dict[int, Annotated[Number, Field(ge=-100, le=100)]],
    expected("an object with token ids as names and numbers from -100 to 100"),
]
_Prompt = Annotated[
    str | Tokens | Annotated[list[str] | list[Tokens], Field(min_length=1, max_length=MAX_CHOICES)],
    expected(f"a string, token ids, or a list of 1 to {MAX_CHOICES} of either"),
]


def prompts(given: str | list[int] | list[str] | list[list[int]]) -> Sequence[str | list[int]]:
    """Return the prompts of a field that has one or several."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [one for one in given if not isinstance(one, int)]


class StreamOptions(Fields):
    """The options of a stream."""

    without_effect = frozenset({"include_obfuscation"})

    include_usage: bool = False


class JsonSchema(Fields):
    """The schema of a `response_format`; its name and description change nothing, and it always holds (`strict`)."""

    without_effect = frozenset({"name", "description", "strict"})

    given: Any = Field(alias="schema")


class ResponseFormat(Fields):
    """What an answer consists of; a `json_object` may have a schema too, as with llama.cpp."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    given: Any = Field(None, alias="schema")

    @model_validator(mode="after")
    def _complete(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None and self.given is None:
            raise Refused("response_format has no json_schema; add it.", "invalid", "response_format")
        if self.type == "text" and not (self.json_schema is None and self.given is None):
            message = "response_format has a schema, but the type text; use the type json_schema."
            raise Refused(message, "invalid", "response_format.type")
        return self

    @property
    def schema_object(self) -> Any:
        """The schema; None without one."""
        if self.type == "text":
            return None
        found = self.given if self.json_schema is None else self.json_schema.given
        return {"type": "object"} if found is None else found


class StructuredOutputs(Fields):
    """What an output consists of, as vLLM has it."""

    without_effect = frozenset({"disable_any_whitespace", "disable_additional_properties", "disable_fallback"})

    given: Any = Field(None, alias="json")
    regex: str | None = None
    choice: _Choices | None = None
    grammar: str | None = None
    json_object: bool = False


class _Body(Fields):
    """The fields of both kinds of requests."""

    without_effect = frozenset(
        {
            *("user", "store", "metadata", "service_tier", "safety_identifier", "prediction"),
            *("prompt_cache_key", "prompt_cache_retention"),
            *("cache_prompt", "cache_salt", "id_slot", "keep_alive", "priority", "request_id", "timings_per_token"),
            # Without the main parameter of their samplers, these have no effect.
            *("dry_allowed_length", "dry_base", "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent"),
            *("mirostat_eta", "mirostat_tau", "xtc_threshold"),
        }
    )
    neutral: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("early_stopping", "ignore_eos", "include_stop_str_in_output", "return_token_ids"), False),
        **dict.fromkeys(("return_tokens_as_token_ids", "use_beam_search"), False),
        **dict.fromkeys(("detokenize", "include_reasoning", "skip_special_tokens"), True),
        **dict.fromkeys(("spaces_between_special_tokens",), True),
        **dict.fromkeys(("dry_multiplier", "dynatemp_range", "mirostat", "top_a", "xtc_probability"), 0),
        **dict.fromkeys(("length_penalty", "repeat_penalty", "tfs_z"), 1),
        **{name: [] for name in ("bad_words", "documents", "functions")},
        "chat_template_kwargs": {},
        "function_call": "none",
        "repeat_last_n": -1,
        "modalities": ["text"],
        "verbosity": "medium",
    }

    model: str
    n: Int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: _Stops = None
    seed: Int | None = None
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: Int | None = Field(None, ge=-1, le=MAX_TOP_K)
    min_p: Number | None = Field(None, ge=0, le=1)
    typical_p: Number | None = Field(None, gt=0, le=1)
    repetition_penalty: Number | None = Field(None, gt=0, le=MAX_VALUE)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    logit_bias: _Bias = Field(default_factory=dict)
    min_tokens: Int = Field(0, ge=0)
    stop_token_ids: list[Int] = Field(default_factory=list, max_length=64)
    response_format: ResponseFormat | None = None
    json_schema: Any = None
    grammar: str | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: _Choices | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def grammar_field(self) -> str | None:
        """The field of the grammar that holds the output; None without one."""
        return next((field for field, _, _ in self._grammars()), None)

    def grammar_text(self) -> str | None:
        """Return the grammar that holds the output; None without one.

        Raises:
            Refused: it is malformed, or there are several.
        """
        found = self._grammars()
        if not found:
            return None
        field, make, value = found[0]
        if len(found) > 1:
            names = ", ".join(dict.fromkeys(one for one, _, _ in found))
            raise Refused(f"The output has several grammars ({names}); give one.", "invalid", field)
        if self.min_tokens:
            raise Refused("min_tokens is not supported with a grammar; remove it.", "invalid", "min_tokens")
        try:
            return make(value)
        except UserError as error:
            raise Refused(str(error), "invalid", field) from None

    def _grammars(self) -> list[tuple[str, Callable[[Any], str], Any]]:
        """Return the field, the form and the value of every grammar."""
        form, outputs = self.response_format, self.structured_outputs
        found: list[tuple[str, Callable[[Any], str], Any]] = [
            ("response_format", json_grammar, form and form.schema_object),
            ("json_schema", json_grammar, self.json_schema),
            ("grammar", text_grammar, self.grammar or None),  # llama.cpp's clients send an empty one for none
            ("guided_json", json_grammar, _parsed(self.guided_json, "guided_json")),
            ("guided_regex", regex_grammar, self.guided_regex),
            ("guided_choice", choice_grammar, self.guided_choice),
            ("guided_grammar", text_grammar, self.guided_grammar),
        ]
        if outputs is not None:
            of_vllm = (
                (json_grammar, _parsed(outputs.given, "structured_outputs")),
                (json_grammar, {"type": "object"} if outputs.json_object else None),
                (regex_grammar, outputs.regex),
                (choice_grammar, outputs.choice),
                (text_grammar, outputs.grammar),
            )
            found += [("structured_outputs", make, value) for make, value in of_vllm]
        return [one for one in found if one[2] is not None]

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _request(
        self,
        prompt_ids: list[int],
        max_tokens: Int | None,
        top_logprobs: int | None,
        seed: Int | None,
        grammar: Grammar | None,
    ) -> Request:
        names = ("top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        temperature = 1.0 if self.temperature is None else self.temperature  # OpenAI's default
        return Request(
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature, top_k=max(0, self.top_k or 0), **given),
            seed=seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_ids=frozenset(self.stop_token_ids),
            min_tokens=self.min_tokens,
            logit_bias={token: bias if bias > _BAN else -math.inf for token, bias in self.logit_bias.items()},
            top_logprobs=top_logprobs,
            grammar=grammar,
        )


class CompletionBody(_Body):
    """The body of `/v1/completions`."""

    prompt: _Prompt = ""
    max_tokens: Int = Field(16, ge=0)
    echo: bool = False
    suffix: str | None = None
    best_of: Int | None = None
    logprobs: Int | None = Field(None, ge=0, le=_MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _supported_completion(self) -> "CompletionBody":
        if self.suffix:
            raise Refused("suffix is not supported; remove it.", "invalid", "suffix")
        if self.best_of is not None and self.best_of != self.n:
            raise Refused("best_of is not supported; remove it and choose among n.", "invalid", "best_of")
        if len(self.prompts) * self.n > MAX_CHOICES:
            message = f"{len(self.prompts)} prompts with n = {self.n} exceed {MAX_CHOICES} choices; reduce one."
            raise Refused(message, "invalid", "n")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """All prompts."""
        return prompts(self.prompt)

    def request(self, prompt_ids: list[int], seed: int | None, grammar: Grammar | None) -> Request:
        """Return the request of one choice."""
        request = self._request(prompt_ids, self.max_tokens, self.logprobs, seed, grammar)
        return replace(request, prompt_logprobs=self.scored)

    @property
    def scored(self) -> bool:
        """Whether the prompt's tokens have log-probabilities."""
        return self.echo and self.logprobs is not None


class DetokenizeBody(Fields):
    """The body of `/detokenize`, as vLLM has it."""

    model: str | None = None
    tokens: list[Int]


class ChatCompletionBody(_Body):
    """The body of `/v1/chat/completions`."""

    neutral: ClassVar[Mapping[str, Any]] = {**_Body.neutral, "best_of": 1, "echo": False}

    messages: Messages
    max_tokens: Int | None = Field(None, ge=1)
    max_completion_tokens: Int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Int | None = Field(None, ge=0, le=_MAX_TOP_LOGPROBS)
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool, expected("none, auto, required, or the name of a tool")
    ] = "auto"
    parallel_tool_calls: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _supported_chat(self) -> "ChatCompletionBody":
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise Refused("Two tools have the same name; rename one.", "invalid", "tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            message = f"tool_choice names {self.tool_choice.function.name}, which is not among the tools; add it."
            raise Refused(message, "invalid", "tool_choice")
        if self.tool_choice == "required" and not names:
            raise Refused("tool_choice is required, but there are no tools; add them.", "invalid", "tool_choice")
        if self.offered and self.continued:
            message = "Tools are not supported with the beginning of an answer as the last message; remove one."
            raise Refused(message, "invalid", "tools")
        if None not in (limits := {self.max_tokens, self.max_completion_tokens}) and len(limits) > 1:
            message = (
                f"max_tokens is {self.max_tokens}, but max_completion_tokens {self.max_completion_tokens}; give one."
            )
            raise Refused(message, "invalid", "max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise Refused("top_logprobs needs logprobs; set it to true.", "invalid", "top_logprobs")
        if self.continue_final_message and not self.continued:
            message = "continue_final_message needs an answer to continue as the last message; see docs/serving.md."
            raise Refused(message, "invalid", "continue_final_message")
        if self.add_generation_prompt is False and not self.continued:
            message = "add_generation_prompt can be false only for an answer to continue; remove it."
            raise Refused(message, "invalid", "add_generation_prompt")
        return self

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the answer may call, as chat templates read them."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    @property
    def uses_tools(self) -> bool:
        """Whether the answer may call tools, or earlier ones have."""
        return bool(self.offered) or any(one.tool_calls or one.role == "tool" for one in self.messages)

    def tool_grammar(self, form: CallFormat) -> str:
        """Return the grammar of the answer to a request with tools.

        Raises:
            Refused: the parameters of a tool are malformed, or there is another grammar.
        """
        if self.grammar_text() is not None:
            raise Refused("tools are not supported together with another grammar; remove one.", "invalid", "tools")
        tools, only = named(self.offered), self.tool_choice
        required = only != "auto"
        if isinstance(only, NamedTool):
            tools = {only.function.name: tools[only.function.name]}
        parallel = self.parallel_tool_calls and not isinstance(only, NamedTool)
        try:
            return call_grammar(form, tools, required=required, parallel=parallel)
        except UserError as error:
            raise Refused(str(error), "invalid", "tools") from None

    @property
    def continued(self) -> bool:
        """Whether the last message begins the answer: one of the assistant does, unless a field denies it."""
        denied = self.continue_final_message is False or self.add_generation_prompt
        last = self.messages[-1]
        return last.role == "assistant" and not last.tool_calls and not denied

    def request(self, prompt_ids: list[int], seed: int | None, grammar: Grammar | None) -> Request:
        """Return the request of one choice."""
        top_logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._request(prompt_ids, self.max_completion_tokens or self.max_tokens, top_logprobs, seed, grammar)


def _parsed(value: Any, field: str) -> Any:
    """Return a JSON schema that may be given as text."""
    if not isinstance(value, str):
        return value
    try:
        schema = json.loads(value)
    except ValueError as error:
        raise Refused(f"{field} is not JSON: {error}.", "invalid", field) from None
    except RecursionError:
        raise Refused(f"{field} is nested too deeply; send a flatter one.", "invalid", field) from None
    if not isinstance(schema, dict):
        raise Refused(f"{field} is not an object; give a JSON schema.", "invalid", field)
    return schema


_NotEmpty = Annotated[str, StringConstraints(min_length=1)]


class EmbeddingsBody(Fields):
    """The body of `/v1/embeddings`."""

    without_effect = frozenset({"user"})

    model: str
    input: Annotated[
        _NotEmpty | Tokens | Annotated[list[_NotEmpty] | list[Tokens], Field(min_length=1, max_length=MAX_CHOICES)],
        expected(f"a text, token ids, or a list of 1 to {MAX_CHOICES} of either; none can be empty"),
    ]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """All texts."""
        return prompts(self.input)


class TokenizeBody(Fields):
    """The body of `/tokenize`, as vLLM has it."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one(self) -> "TokenizeBody":
        if (self.prompt is None) == (self.messages is None):
            raise Refused("Give either prompt or messages.", "invalid", "prompt")
        return self
