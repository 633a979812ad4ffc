"""A chat template in Jinja's sandbox, with the globals, filters and options that transformers gives it."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from homegrown.util.errors import UserError

Clock = Callable[[], datetime]


class Refused(UserError):
    """The template cannot render a conversation; the message names the reason."""


class Template:
    """A compiled chat template."""

    def __init__(self, source: str, clock: Clock = datetime.now):
        """Compile the source; `clock` is the time for `strftime_now`.

        Raises:
            UserError: it is not valid Jinja.
        """
        self.source = source
        self._template = _compiled(source, clock)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        reply: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the text of `messages`, with the start of an answer if `reply`.

        `variables` are the other names that the template may read, such as `bos_token`.

        Raises:
            Refused: the template raises an exception.
        """
        try:
            return self._template.render(
                **variables, messages=messages, tools=tools, documents=None, add_generation_prompt=reply
            )
        except Exception as error:  # a template may fail in any operation on its values
            if isinstance(error, jinja2.UndefinedError) and (calls := _without_content(messages)):
                raise Refused(f"The chat template does not support tool calls (message {calls}).") from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Refused(f"The chat template refuses the conversation: {reason[:200]}.".replace("..", ".")) from error


def _without_content(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the position, from 1, of the first message that has tool calls and no text; None without one."""
    return next((number for number, one in enumerate(messages, start=1) if "content" not in one), None)


def renders_messages(source: str, variables: Mapping[str, Any]) -> bool:
    """Return whether a template renders the text of a message, so that it is a chat template; or may do so."""
    try:
        probe = {"role": "user", "content": "a question"}
        return probe["content"] in Template(source).render([probe], reply=True, variables=variables)
    except UserError:
        return True


@lru_cache(maxsize=16)
def _compiled(source: str, clock: Clock) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: clock().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"The chat template is invalid Jinja in line {error.lineno} ({error.message}).") from error


class _Generation(jinja2.ext.Extension):
    """The block `generation` around what an assistant writes, which renders as its content."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
