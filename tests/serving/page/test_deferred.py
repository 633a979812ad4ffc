"""The page appears once it is created, and the API does not wait for it."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from homegrown.serving.page.deferred import DeferredPage
from tests.serving.running import soon


def application(page: DeferredPage) -> FastAPI:
    app = FastAPI(lifespan=page.lifespan)
    app.get("/health")(lambda: "ok")
    app.mount("/", page)
    return app


def test_the_server_answers_before_the_page_and_ends_it() -> None:
    may, alive = threading.Event(), []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        alive.append(True)
        yield
        alive.append(False)

    def make() -> FastAPI:
        may.wait()
        page = FastAPI(lifespan=lifespan)
        page.get("/")(lambda: "the page")
        return page

    with TestClient(application(DeferredPage(make, lambda app: app))) as client:
        assert client.get("/health").json() == "ok"
        meanwhile = client.get("/")
        assert meanwhile.status_code == 503 and 'http-equiv="refresh"' in meanwhile.text
        may.set()
        soon(lambda: client.get("/").status_code == 200)
        assert client.get("/").json() == "the page" and alive == [True]
    assert alive == [True, False]


def test_the_server_ends_before_the_page_is_created() -> None:
    never = threading.Event()

    def make() -> FastAPI:
        never.wait()
        return FastAPI()

    try:
        with TestClient(application(DeferredPage(make, lambda app: app))):
            pass
    finally:
        never.set()


def test_a_page_that_cannot_be_created_is_an_error() -> None:
    def make() -> FastAPI:
        raise ValueError("broken")

    with TestClient(application(DeferredPage(make, lambda app: app))) as client:

        def fails() -> bool:
            try:
                client.get("/")
            except ValueError:
                return True
            return False

        soon(fails)
        with pytest.raises(ValueError, match="broken"):
            client.get("/")
        assert client.get("/health").status_code == 200
