"""A text as it is written for the page: its HTML so far, how fast it comes, why it ended; several side by side."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from html import escape
from typing import cast

from homegrown.inference.engine import Finish
from homegrown.serving.completion import Completion, Written
from homegrown.serving.page.tokens import span
from homegrown.serving.service import Engine, Service
from homegrown.util.errors import UserError

_EVERY = 0.2
"""Seconds between two looks at what was written: faster than one reads, slow enough for a browser to draw."""

_log = logging.getLogger(__name__)


class Answer:
    """What one model writes to a completion. Its HTML only ever grows, so that a browser is sent what is new."""

    def __init__(self, service: Service, name: str, completion: Completion, note: str = ""):
        """Prepare an answer; `note` is a sentence to be shown below it."""
        self.name, self.text, self.html = name, "", ""
        self.error: str | None = None
        self._service, self._completion, self._note = service, completion, note
        self._prompt_tokens = self._context = self._count = 0
        self._asked, self._room = completion.max_tokens or 0, 0
        self._first: float | None = None
        self._last = 0.0
        self._waiting: list[Written] = []
        self._end: Finish | None = None
        self._stopped = False

    async def write(self) -> None:
        """Have it written to its end; what goes wrong becomes a sentence."""
        try:
            await self._write()
        except UserError as error:
            self.error = str(error)
        except Exception:
            _log.exception("the page's answer of %s failed", self.name)
            self.error = f"{self.name} failed while it wrote; the server's log says why."

    async def _write(self) -> None:
        prompt = self._service.encode(self.name, self._completion)
        self._context = cast(Engine, self._service.model(self.name).engine).context
        self._room = max(1, min(self._asked, self._context - len(prompt)))
        with self._service.begin(self.name, replace(self._completion, max_tokens=self._room)) as writing:
            self._prompt_tokens = writing.prompt_tokens
            async for delta in writing:
                self._first = delta.seconds if self._first is None else self._first
                self._last = delta.seconds
                self._count, self._end = delta.count, delta.finish
                self._waiting += delta.tokens
                if delta.text or (delta.finish and self._waiting):
                    self.text += delta.text
                    self.html += span(delta.text, self._waiting)
                    self._waiting = []

    def settle(self) -> None:
        """Say that nothing more comes."""
        self._stopped = self._end is None and self.error is None

    @property
    def foot(self) -> str:
        """What stands below the text, as HTML: the model, speed, tokens used, why it ended, and what went wrong."""
        facts = [f"<b>{escape(self.name)}</b>"]
        if self._count:
            used = self._prompt_tokens + self._count
            facts += [self._speed(), f"{self._count} tokens", f"context {used} of {self._context}"]
        elif not self.error and not self._stopped:
            facts.append("reading …")
        facts += [self._reason()] if self._reason() else []
        facts.append(f"seed {self._completion.seed}")
        lines = [f'<p class="facts">{" · ".join(facts)}</p>']
        lines += [f'<p class="note">{escape(sentence)}</p>' for sentence in (self._note, self._cut()) if sentence]
        if self.error:
            lines.append(f'<p class="error" role="alert">{escape(self.error)}</p>')
        return f'<div class="below">{"".join(lines)}</div>'

    def _speed(self) -> str:
        # From the first token to the last: how long the prompt took to be read is another figure. And of its own work:
        # what writes beside it takes turns with it.
        took = self._last - (self._first or 0.0)
        return f"{(self._count - 1) / took:.1f} tokens/s" if took > 0 else "… tokens/s"

    def _reason(self) -> str:
        if self._stopped:
            return "stopped"
        return {"stop": "came to its end", "length": "reached the length", None: ""}[self._end]

    def _cut(self) -> str:
        if self._end != "length" or self._room >= self._asked:
            return ""
        return (
            f"The context of {self._context} tokens is full: it had room for {self._room} of the {self._asked} tokens "
            "of the maximum length."
        )


async def side_by_side(answers: Sequence[Answer], stop: asyncio.Event) -> AsyncGenerator[None]:
    """Write all answers at once; yield every now and then until they are done or `stop` is set, and once after."""
    tasks = {asyncio.create_task(answer.write()) for answer in answers}
    try:
        pending = tasks
        while pending and not stop.is_set():
            _, pending = await asyncio.wait(pending, timeout=_EVERY)
            if pending:
                yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for answer in answers:
            answer.settle()
    yield
