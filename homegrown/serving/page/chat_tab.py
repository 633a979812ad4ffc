"""The tab Chat: a conversation with one model, or with two side by side."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from html import escape
from typing import Any, cast

import gradio as gr

from homegrown.serving.page.answer import Answer
from homegrown.serving.page.controls import Controls, Settings
from homegrown.serving.page.panes import Draw, Panes, buttons
from homegrown.serving.service import Engine, Service
from homegrown.tokenizer.chat import Message
from homegrown.util.errors import UserError

_ANSWER_SHARE = 4
"""Old messages are dropped when less than this part of the context remains for an answer."""


@dataclass(frozen=True)
class Dialogue:
    """The conversation of one pane: its messages and their HTML."""

    messages: tuple[Message, ...] = ()
    html: str = ""

    def asked(self, text: str) -> "Dialogue":
        """Return it with a message of the user."""
        turn = f'<div class="turn user">{escape(text)}</div>'
        return Dialogue((*self.messages, Message("user", text)), self.html + turn)

    def answered(self, answer: Answer) -> "Dialogue":
        """Return it with an answer."""
        return Dialogue((*self.messages, Message("assistant", answer.text)), f"{self.drawn(answer)}</div>")

    def drawn(self, answer: Answer) -> str:
        """Return its HTML with an unfinished answer; the browser closes the open elements."""
        return f'{self.html}<div class="turn assistant">{answer.html}'


def chat_tab(service: Service, controls: Controls) -> None:
    """Add the tab's content to the page."""
    above = gr.Column()
    message = gr.Textbox(
        "", placeholder="Type a message; press Enter to send it.", show_label=False, lines=1, max_lines=8,
        elem_id="message", container=False,
    )  # fmt: skip
    with gr.Row(elem_classes="buttons"):
        start, stop = buttons("chat", "Send")
        new = gr.Button("New chat", elem_id="chat-new", min_width=90, size="md")
    with above:
        panes = Panes("chat", controls, stop=stop, idle=[start, new])
    dialogues = gr.State((Dialogue(), Dialogue()))

    async def send(
        http: gr.Request, text: str, before: tuple[Dialogue, ...], *values: Any
    ) -> AsyncGenerator[list[Any]]:
        if not text.strip():
            yield [gr.skip()] * (2 + len(panes.outputs))
            return
        settings = controls.read(values)
        asked = [dialogue.asked(text) for dialogue in before[: len(settings.models)]]
        answers = [_answer(service, settings, model, one) for model, one in zip(settings.models, asked, strict=True)]
        draw: list[Draw] = [one.drawn for one in asked]
        # The box is emptied only once, so that text typed during an answer is kept.
        box: Any = ""
        async with aclosing(panes.show(http.session_hash, answers, draw)) as updates:
            async for shown in updates:
                yield [box, gr.skip(), *shown]
                box = gr.skip()
        after = [
            old if answer.error else one.answered(answer)
            for old, one, answer in zip(before, asked, answers, strict=False)
        ]
        unsent = text if all(answer.error for answer in answers) else gr.skip()
        yield [unsent, (*after, *before[len(after) :]), *shown]

    gr.on(
        [start.click, message.submit], send, [message, dialogues, *controls.inputs],
        [message, dialogues, *panes.outputs], show_progress="hidden", concurrency_limit=None, api_visibility="private",
    )  # fmt: skip
    new.click(
        lambda: [(Dialogue(), Dialogue()), *panes.cleared()], None, [dialogues, *panes.outputs],
        show_progress="hidden", concurrency_limit=None, api_visibility="private",
    )  # fmt: skip


def _answer(service: Service, settings: Settings, model: str, dialogue: Dialogue) -> Answer:
    system = [Message("system", settings.system)] if settings.system else []
    messages = list(dialogue.messages)
    try:
        while len(messages) > 1 and not _fits(service, settings, model, [*system, *messages]):
            messages = messages[2:]
    except UserError:
        pass  # the model is not available, which the answer reports
    dropped = len(dialogue.messages) - len(messages)
    note = f"The context is full: the oldest {dropped} messages were dropped." if dropped else ""
    return settings.answer(service, model, [*system, *messages], note)


def _fits(service: Service, settings: Settings, model: str, messages: Sequence[Message]) -> bool:
    used = len(service.encode(model, messages))
    context = cast(Engine, service.model(model).engine).context
    return context - used >= min(settings.max_tokens, max(1, context // _ANSWER_SHARE))
