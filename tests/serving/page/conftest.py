"""A server of the page with scripted models, and a Chromium."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from homegrown.serving.api import application
from homegrown.serving.service import Model, Service
from homegrown.store.artifacts import Store
from homegrown.tokenizer.chat import Chat
from tests.serving.page.browser import CHROMIUM, CONTEXT, DRIVER, MARKUP, PLAIN, SMALLER, TUNED, Page
from tests.serving.running import running
from tests.serving.scripted import OTHERS, ScriptedEngine


@pytest.fixture(scope="package")
def contacted_hosts() -> list[str]:
    """The hosts that this process contacts from now on."""
    hosts: list[str] = []

    def note(event: str, values: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            hosts.append(str(values[0]))
        elif event == "socket.connect" and isinstance(values[1], tuple):
            hosts.append(str(values[1][0]))

    sys.addaudithook(note)
    return hosts


@pytest.fixture(scope="package")
def tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the other top tokens of the scripted engine, one of which looks like markup."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.add_tokens([AddedToken(token, normalized=False) for token in OTHERS])
    own.encode_special_tokens = True
    return own


@pytest.fixture(scope="package")
def engines(tokenizer: Tokenizer) -> dict[str, ScriptedEngine]:
    return {name: ScriptedEngine(name, tokenizer, MARKUP, context=CONTEXT) for name in (TUNED, SMALLER, PLAIN)}


@pytest.fixture(scope="package")
def book(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("page") / "artifacts")


@pytest.fixture(scope="package")
def address(
    engines: dict[str, ScriptedEngine], tokenizer: Tokenizer, contacted_hosts: list[str], book: Store
) -> Iterator[str]:
    service = Service([Model(name, 0, name != PLAIN) for name in engines], queue=0)
    for name, engine in engines.items():
        service.ready(name, engine, Chat(tokenizer))
    with running(application(service, key=None, hosts=["127.0.0.1"], store=book)) as url:
        yield url
        service.stop()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(chromium: Any, address: str, engines: dict[str, ScriptedEngine], book: Store) -> Iterator[Page]:
    for engine in engines.values():
        engine.text, engine.allowed, engine.rows = MARKUP, math.inf, 4
        engine.requests.clear()
        engine.cancelled = 0
    chromium.get("about:blank")  # the previous page may still be saving its conversation
    for path in book.root.glob("*.sqlite"):
        path.unlink()
    made = Page(chromium, address)
    made.size(1280, 900)
    yield made
    chromium.execute_script("localStorage.clear()")
