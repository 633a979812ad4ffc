"""The panes of a tab with its outputs, one or two side by side, and the buttons that start and stop them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from homegrown.serving.page.answer import Answer, side_by_side
from homegrown.serving.page.controls import Controls

_MAX_PANES = 2
"""Side by side."""

_EMPTY = '<div class="text given">The output appears here.</div>'

Draw = Callable[[Answer], str]
"""Returns the HTML of a pane from its answer."""


def buttons(tab: str, start: str) -> tuple[gr.Button, gr.Button]:
    """Add the start and the stop button of a tab to the page, and return them."""
    return (
        gr.Button(start, variant="primary", size="md", min_width=90, elem_id=f"{tab}-start"),
        gr.Button("Stop", interactive=False, size="md", min_width=90, elem_id=f"{tab}-stop"),
    )


class Panes:
    """The panes and buttons of one tab."""

    def __init__(self, tab: str, controls: Controls, *, stop: gr.Button, idle: Sequence[gr.Button]):
        """Add the panes to the page; `tab` is part of their ids.

        While a model generates, `stop` is enabled, which stops only its own visitor's outputs, and `idle` is not.
        """
        self._stop_button, self._idle = stop, idle
        self._texts: list[gr.HTML] = []
        self._feet: list[gr.HTML] = []
        with gr.Row(elem_classes="panes"):
            columns = [self._pane(f"{tab}-{place}", visible=place == 0) for place in range(_MAX_PANES)]
        controls.compare.change(
            lambda name: gr.update(visible=controls.compares(name)),
            controls.compare,
            columns[1],
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=None,
        )
        self._stops: dict[str, asyncio.Event] = {}
        # Not with Gradio's `cancels`, which ends the handler: a stopped output still shows its figures.
        stop.click(self._stop, show_progress="hidden", concurrency_limit=None, api_visibility="private")

    def _pane(self, name: str, *, visible: bool) -> gr.Column:
        with gr.Column(min_width=260, visible=visible, elem_classes="pane") as column:
            self._texts.append(gr.HTML(_EMPTY, elem_id=f"{name}-text", elem_classes="output", js_on_load=None))
            self._feet.append(gr.HTML(elem_id=f"{name}-foot", elem_classes="foot", js_on_load=None))
        return column

    @property
    def outputs(self) -> list[Any]:
        """The components that `show` yields values for, in this order."""
        return [self._stop_button, *self._idle, *self._texts, *self._feet]

    async def show(self, session: str, answers: Sequence[Answer], draw: Sequence[Draw]) -> AsyncGenerator[list[Any]]:
        """Run answers, each in its pane; yield the values of `outputs` until all are finished or stopped."""
        stop = self._stops[session] = asyncio.Event()
        try:
            yield self._values(answers, draw, generating=True)
            async with aclosing(side_by_side(answers, stop)) as updates:
                async for _ in updates:
                    yield self._values(answers, draw, generating=True)
            yield self._values(answers, draw, generating=False)
        finally:
            if self._stops.get(session) is stop:
                del self._stops[session]

    def cleared(self) -> list[Any]:
        """Return the values of `outputs` without any output."""
        return [gr.skip() for _ in (self._stop_button, *self._idle)] + [*[_EMPTY] * _MAX_PANES, *[""] * _MAX_PANES]

    async def _stop(self, request: gr.Request) -> None:
        if stop := self._stops.get(request.session_hash):
            stop.set()

    def _values(self, answers: Sequence[Answer], draw: Sequence[Draw], *, generating: bool) -> list[Any]:
        # Left open, so that the browser receives only the text added at the end.
        texts = [f'<div class="text">{drawn(answer)}' for answer, drawn in zip(answers, draw, strict=True)]
        feet = [answer.foot for answer in answers]
        buttons = [gr.update(interactive=generating), *(gr.update(interactive=not generating) for _ in self._idle)]
        absent = _MAX_PANES - len(answers)
        return [*buttons, *texts, *[_EMPTY] * absent, *feet, *[""] * absent]
