"""Where a tab shows what is written: one pane, or two side by side, and the buttons that begin and stop it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from homegrown.serving.page.answer import Answer, side_by_side
from homegrown.serving.page.controls import Controls

_MOST = 2
"""Panes side by side."""

_EMPTY = '<div class="text given">What the model writes will be here.</div>'

Draw = Callable[[Answer], str]
"""Returns the HTML of a pane from its answer."""


def buttons(tab: str, begin: str) -> tuple[gr.Button, gr.Button]:
    """Put the button that begins and the one that stops where the page is being built, and return them."""
    return (
        gr.Button(begin, variant="primary", size="md", min_width=90, elem_id=f"{tab}-begin"),
        gr.Button("Stop", interactive=False, size="md", min_width=90, elem_id=f"{tab}-stop"),
    )


class Panes:
    """The panes and buttons of one tab, as components of the page that is being built."""

    def __init__(self, tab: str, controls: Controls, *, stop: gr.Button, idle: Sequence[gr.Button]):
        """Put the panes where the page is being built; `tab` is part of their ids.

        While something is written, `stop` can be pressed, which stops what its own visitor began, and `idle` cannot.
        """
        self._stop_button, self._idle = stop, idle
        self._texts: list[gr.HTML] = []
        self._feet: list[gr.HTML] = []
        with gr.Row(elem_classes="panes"):
            columns = [self._pane(f"{tab}-{place}", visible=place == 0) for place in range(_MOST)]
        controls.beside.change(
            lambda beside: gr.update(visible=controls.compares(beside)),
            controls.beside,
            columns[1],
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=None,
        )
        self._stops: dict[str, asyncio.Event] = {}
        # Not by Gradio's `cancels`, which ends the handler: what is stopped still says how far it came.
        stop.click(self._stop, show_progress="hidden", concurrency_limit=None, api_visibility="private")

    def _pane(self, name: str, *, visible: bool) -> gr.Column:
        with gr.Column(min_width=260, visible=visible, elem_classes="pane") as column:
            self._texts.append(
                gr.HTML(_EMPTY, elem_id=f"{name}-text", elem_classes="written", js_on_load=None, autoscroll=True)
            )
            self._feet.append(gr.HTML(elem_id=f"{name}-foot", elem_classes="foot", js_on_load=None))
        return column

    @property
    def outputs(self) -> list[Any]:
        """What `show` gives values for, in this order."""
        return [self._stop_button, *self._idle, *self._texts, *self._feet]

    async def show(self, session: str, answers: Sequence[Answer], draw: Sequence[Draw]) -> AsyncGenerator[list[Any]]:
        """Have answers written, each in its pane; yield what `outputs` are to show, until all are done or stopped."""
        stop = self._stops[session] = asyncio.Event()
        try:
            yield self._values(answers, draw, writing=True)
            async with aclosing(side_by_side(answers, stop)) as moments:
                async for _ in moments:
                    yield self._values(answers, draw, writing=True)
            yield self._values(answers, draw, writing=False)
        finally:
            if self._stops.get(session) is stop:
                del self._stops[session]

    def cleared(self) -> list[Any]:
        """Return the values of `outputs` with nothing written."""
        return [gr.skip() for _ in (self._stop_button, *self._idle)] + [*[_EMPTY] * _MOST, *[""] * _MOST]

    async def _stop(self, request: gr.Request) -> None:
        if stop := self._stops.get(request.session_hash):
            stop.set()

    def _values(self, answers: Sequence[Answer], draw: Sequence[Draw], *, writing: bool) -> list[Any]:
        # Left open, so that what is sent to the browser is what was added at the end.
        texts = [f'<div class="text">{drawn(answer)}' for answer, drawn in zip(answers, draw, strict=True)]
        feet = [answer.foot for answer in answers]
        buttons = [gr.update(interactive=writing), *(gr.update(interactive=not writing) for _ in self._idle)]
        absent = _MOST - len(answers)
        return [*buttons, *texts, *[_EMPTY] * absent, *feet, *[""] * absent]
