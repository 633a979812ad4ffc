"""The tab Completion: the models continue a prompt."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from homegrown.serving.page.answer import Answer
from homegrown.serving.page.controls import Controls
from homegrown.serving.page.panes import Panes, buttons
from homegrown.serving.service import Service


def completion_tab(service: Service, controls: Controls) -> None:
    """Add the tab's content to the page."""
    prompt = gr.Textbox(
        "",
        label="Prompt",
        placeholder="Text to continue; empty starts a new document.",
        lines=3,
        max_lines=12,
        elem_id="prompt",
        autoscroll=False,
    )
    with gr.Row(elem_classes="buttons"):
        start, stop = buttons("completion", "Continue")
    panes = Panes("completion", controls, stop=stop, idle=[start])

    async def generate(http: gr.Request, text: str, *values: Any) -> AsyncGenerator[list[Any]]:
        settings = controls.read(values)
        answers = [settings.answer(service, model, text) for model in settings.models]

        def draw(answer: Answer) -> str:
            return f'<span class="given">{escape(text)}</span>{answer.html}'

        async with aclosing(panes.show(http.session_hash, answers, [draw] * len(answers))) as updates:
            async for shown in updates:
                yield shown

    start.click(
        generate, [prompt, *controls.inputs], panes.outputs, show_progress="hidden", concurrency_limit=None,
        api_visibility="private",
    )  # fmt: skip
