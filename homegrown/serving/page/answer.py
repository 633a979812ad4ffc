"""The page's outputs: the HTML so far, the speed and the finish reason of each; several side by side."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from html import escape
from typing import cast

from homegrown.inference.engine import FinishReason, Request
from homegrown.inference.streaming import TextToken
from homegrown.serving.page.tokens import span
from homegrown.serving.service import Engine, Prompt, Service
from homegrown.util.errors import UserError

_INTERVAL = 0.2
"""Seconds between two updates: faster than one reads, slow enough for a browser to draw."""

_log = logging.getLogger(__name__)


class Answer:
    """The output of one model. Its HTML only grows, so that a browser receives only what is new."""

    def __init__(self, service: Service, name: str, prompt: Prompt, request: Request, note: str = ""):
        """Prepare an answer to `prompt`; `request` has everything but its tokens, `note` is shown below the output."""
        self.name, self.text, self.html = name, "", ""
        self.error: str | None = None
        self._service, self._prompt, self._request, self._note = service, prompt, request, note
        self._prompt_tokens = self._context = self._completion_tokens = 0
        self._requested, self._max_tokens = request.max_tokens or 0, 0
        self._first: float | None = None
        self._last = 0.0
        self._pending: list[TextToken] = []
        self._finish_reason: FinishReason | None = None
        self._stopped = False

    async def run(self) -> None:
        """Generate the output; an exception becomes an error message."""
        try:
            await self._run()
        except UserError as error:
            self.error = str(error)
        except Exception:
            _log.exception("the page's answer of %s failed", self.name)
            self.error = f"{self.name} failed; see the server's log."

    async def _run(self) -> None:
        prompt_ids, model = self._service.encode(self.name, self._prompt), self._service.model(self.name)
        self._context = cast(Engine, model.engine).context
        self._max_tokens = max(1, min(self._requested, self._context - len(prompt_ids)))
        request = replace(self._request, prompt_ids=prompt_ids, max_tokens=self._max_tokens)
        with self._service.submit(self.name, request) as generation:
            self._prompt_tokens = generation.prompt_tokens
            async for chunk in generation:
                self._first = chunk.seconds if self._first is None else self._first
                self._last = chunk.seconds
                self._completion_tokens, self._finish_reason = chunk.completion_tokens, chunk.finish_reason
                self._pending += chunk.tokens
                if chunk.text or (chunk.finish_reason and self._pending):
                    self.text += chunk.text
                    self.html += span(chunk.text, self._pending, model.token_bytes)
                    self._pending = []

    def settle(self) -> None:
        """Mark the output as final."""
        self._stopped = self._finish_reason is None and self.error is None

    @property
    def foot(self) -> str:
        """The line below the output, as HTML: model, speed, tokens, finish reason, and the error message."""
        facts = [f"<b>{escape(self.name)}</b>"]
        if self._completion_tokens:
            used = self._prompt_tokens + self._completion_tokens
            facts += [self._speed(), f"{self._completion_tokens} tokens", f"context {used} of {self._context}"]
        elif not self.error and not self._stopped:
            facts.append("reading the prompt …")
        facts += [self._reason()] if self._reason() else []
        facts.append(f"seed {self._request.seed}")
        lines = [f'<p class="facts">{" · ".join(facts)}</p>']
        lines += [f'<p class="note">{escape(note)}</p>' for note in (self._note, self._cut()) if note]
        if self.error:
            lines.append(f'<p class="error" role="alert">{escape(self.error)}</p>')
        return f'<div class="below">{"".join(lines)}</div>'

    def _speed(self) -> str:
        # From the first token to the last, because the prompt's time is another figure; in the model's computing time,
        # because a model beside it takes turns with it.
        seconds = self._last - (self._first or 0.0)
        return f"{(self._completion_tokens - 1) / seconds:.1f} tokens/s" if seconds > 0 else "… tokens/s"

    def _reason(self) -> str:
        if self._stopped:
            return "stopped"
        return {"stop": "finished", "length": "maximum length reached", None: ""}[self._finish_reason]

    def _cut(self) -> str:
        if self._finish_reason != "length" or self._max_tokens >= self._requested:
            return ""
        return (
            f"The context of {self._context} tokens is full: only {self._max_tokens} of {self._requested} requested "
            "tokens fit."
        )


async def side_by_side(answers: Sequence[Answer], stop: asyncio.Event) -> AsyncGenerator[None]:
    """Run all answers at once; yield at intervals until they are finished or `stop` is set, and once after."""
    tasks = {asyncio.create_task(answer.run()) for answer in answers}
    try:
        pending = tasks
        while pending and not stop.is_set():
            _, pending = await asyncio.wait(pending, timeout=_INTERVAL)
            if pending:
                yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for answer in answers:
            answer.settle()
    yield
