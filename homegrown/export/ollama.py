"""A Modelfile for `ollama create`: a GGUF file with its chat template and stop tokens."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from homegrown.export.gguf_reader import context_of
from homegrown.tokenizer.chat import Chat, Message, Role
from homegrown.tokenizer.special import special_ids, token_text
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

_TEMPERATURE = 0.8
"""That of `homegrown generate`."""

_PROBES: Sequence[Sequence[Role]] = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


def write_modelfile(gguf_file: Path, target: Path, chat: Chat) -> None:
    """Write the Modelfile of an exported GGUF file, which it names by its path relative to `target`.

    The chat template is written in Go's `text/template`, Ollama's template language, and the default system message as
    SYSTEM. There is no start token: the GGUF file makes llama.cpp add it to every prompt.

    Raises:
        UserError: the GGUF file is missing or damaged, or Ollama's language cannot express the chat template.
    """
    place = Path(os.path.relpath(gguf_file, target.parent)).as_posix()
    lines = [
        "# ollama create NAME -f Modelfile && ollama run NAME",
        f"FROM ./{place}",
        *([f'TEMPLATE """{_pieces(chat).template()}"""'] if chat.supported else []),
        *([] if chat.system is None else [f'SYSTEM """{chat.system}"""']),
        *[f'PARAMETER stop "{chat.tokenizer.id_to_token(stop)}"' for stop in sorted(chat.stop_ids)],
        f"PARAMETER num_ctx {context_of(gguf_file)}",
        f"PARAMETER temperature {_TEMPERATURE}",
    ]
    with replacing(target) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Pieces:
    """A chat template in pieces: text around the messages of each role, and text before and after all messages.

    `opening` comes first unless the first message is of the role system.
    """

    opening: str
    around: dict[str, tuple[str, str]]
    reply: str

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt for an answer, as the Go template renders it."""
        turns = [self.around[message.role][0] + message.content + self.around[message.role][1] for message in messages]
        return ("" if messages[0].role == "system" else self.opening) + "".join(turns) + self.reply

    def template(self) -> str:
        """Return the Go template."""
        opening = (
            f'{{{{ if ne (index .Messages 0).Role "system" }}}}{self.opening}{{{{ end }}}}' if self.opening else ""
        )
        return f"{opening}{{{{ range .Messages }}}}{self._turn()}{{{{ end }}}}{self.reply}"

    def _turn(self) -> str:
        content = "{{ .Content }}"
        by_role = {role: (before.replace(role, "{{ .Role }}"), after) for role, (before, after) in self.around.items()}
        if len(set(by_role.values())) == 1 and "system" in by_role:
            before, after = by_role["user"]
            return f"{before}{content}{after}"
        branches = [
            f'if eq .Role "{role}" }}}}{before}{content}{after}' for role, (before, after) in self.around.items()
        ]
        return "{{ " + "{{ else ".join(branches) + "{{ end }}"


def _pieces(chat: Chat) -> _Pieces:
    """Return the pieces of a model's template, found by rendering and checked on several conversations.

    Raises:
        UserError: the template is not made of such pieces.
    """
    system, user, answer = _message("system", 0), _message("user", 1), _message("assistant", 2)

    def text(*messages: Message, reply: bool = False) -> str:
        rendered = chat.render(messages, reply=reply)
        start = special_ids(chat.tokenizer).bos
        return rendered if start is None else rendered.removeprefix(token_text(chat.tokenizer, start))

    try:
        before_user, after_user = text(user).split(user.content)
        reply = text(user, reply=True).removeprefix(text(user))
        after_answer = text(user, answer).split(answer.content)[1]
        middle, last = text(user, answer, _message("user", 3), reply=True).split(user.content)[1].split(answer.content)
        user_prefix = last.removeprefix(after_answer).split(_message("user", 3).content)[0]
        around = {
            "user": (user_prefix, after_user),
            "assistant": (middle.removeprefix(after_user), after_answer),
        }
        if (with_system := _optional(lambda: text(system, user))) is not None:
            before_system, rest = with_system.split(system.content)
            after_system = rest.split(user.content)[0].removesuffix(user_prefix)
            around = {"system": (before_system, after_system)} | around
        pieces = _Pieces(before_user.removesuffix(user_prefix), around, reply)
        probes = [[_message(role, place) for place, role in enumerate(probe)] for probe in _PROBES]
        fits = all(
            pieces.render(probe) == text(*probe, reply=True) for probe in probes if probe[0].role in pieces.around
        )
    except ValueError:  # a split into another number of parts
        fits = False
    if not fits or any(mark in pieces.template().replace("{{ ", "") for mark in ("{{", '"""')):
        raise UserError("Ollama's template language cannot express the chat template of the model; export it to gguf.")
    return pieces


def _message(role: Role, place: int) -> Message:
    return Message(role, f"TEXT-{place}-")


def _optional(render: Callable[[], str]) -> str | None:
    """Return the result, None where the template refuses the conversation."""
    try:
        return render()
    except UserError:
        return None
