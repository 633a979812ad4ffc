"""The page's files, and its own routes: the models' state, the conversations, and feedback on answers."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import fastapi
from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from homegrown.rating.feedback import Answer, Feedback
from homegrown.serving.page.conversations import FILE, Conversations
from homegrown.serving.service import Service
from homegrown.store.artifacts import Store

_FILES = Path(__file__).with_name("files")
_KINDS = {"page.css": "text/css", "page.js": "text/javascript", "markdown.js": "text/javascript"}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""No inline script and nothing from another host: a script in a model's output would not run even as markup."""

Id = Annotated[str, fastapi.Path(pattern=r"^[0-9a-f-]{32,36}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Message(_Body):
    role: Literal["system", "user", "assistant"]
    content: str


class _Answer(_Body):
    text: Annotated[str, Field(min_length=1)]
    model: str
    seed: int | None = None
    settings: dict[str, float | str | list[str]] = {}


class _Feedback(_Body):
    conversation: str = ""
    prompt: Annotated[list[_Message], Field(min_length=1)]


class _Thumb(_Feedback):
    kind: Literal["thumb"]
    answer: _Answer
    value: Literal[-1, 0, 1]


class _Choice(_Feedback):
    """A choice: `answer` was preferred to `other`; or an edit: `answer` is `other` corrected."""

    kind: Literal["choice", "edit"]
    answer: _Answer
    other: _Answer


class _Conversation(_Body):
    title: Annotated[str, Field(max_length=200)]
    content: dict[str, Any]


def router(service: Service, store: Store | None) -> APIRouter:
    """Return the routes; conversations and feedback are in the `store`, and refused without one."""
    routes = APIRouter(include_in_schema=False)
    read = partial(routes.api_route, methods=["GET", "HEAD"])

    def file(name: str, kind: str) -> FileResponse:
        return FileResponse(_FILES / name, media_type=kind, headers=_HEADERS)

    @read("/")
    def page() -> FileResponse:
        return file("index.html", "text/html")

    @read("/page/models")
    async def models() -> dict[str, Any]:
        found = [
            {"name": name, "state": state, "answers": service.model(name).answers}
            for name, state in service.state.items()
        ]
        return {"models": found, "kept": store is not None}

    def kept() -> Store:
        if store is None:
            message = "Conversations and feedback are not kept: other machines reach this server; set a key."
            raise HTTPException(403, message)
        return store

    def conversations() -> Conversations:
        return Conversations(kept().root / FILE)

    @read("/page/conversations")
    def listed() -> dict[str, Any]:
        return {"conversations": conversations().all()}

    @read("/page/conversations/{name}")
    def one(name: Id) -> dict[str, Any]:
        if (content := conversations().get(name)) is None:
            raise HTTPException(404, "The conversation does not exist; it was deleted.")
        return {"content": content}

    @routes.put("/page/conversations/{name}")
    def keep(name: Id, body: _Conversation) -> dict[str, Any]:
        conversations().put(name, body.title, body.content)
        return {}

    @routes.delete("/page/conversations/{name}")
    def delete(name: Id) -> dict[str, Any]:
        conversations().delete(name)
        return {}

    def answer(given: _Answer) -> Answer:
        # The name of the version: an alias means another one after the next training.
        return Answer(given.text, service.model(given.model).name, given.seed, given.settings)

    @routes.post("/page/feedback")
    def feedback(body: Annotated[_Thumb | _Choice, Field(discriminator="kind")]) -> dict[str, Any]:
        book, prompt = Feedback(kept()), [message.model_dump() for message in body.prompt]
        if isinstance(body, _Thumb):
            book.thumb(prompt, answer(body.answer), body.value, body.conversation)
        elif body.kind == "edit":
            book.edit(prompt, body.answer.text, answer(body.other), body.conversation)
        else:
            book.choose(prompt, answer(body.answer), answer(body.other), body.conversation)
        return {}

    # Last: a name of its own is not a file.
    @read("/page/{name}")
    def asset(name: str) -> FileResponse:
        if name not in _KINDS:
            raise HTTPException(404, f"The path /page/{name} does not exist.")
        return file(name, _KINDS[name])

    return routes
