"""A browser window with the page, and helpers for its tests."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import pytest
from tokenizers import Tokenizer

from tests.serving.scripted import ScriptedEngine
from tests.waiting import wait_for

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")

TUNED, SMALLER, PLAIN = "finetune@2", "quantize@2:int8", "pretrain@3"
MARKUP = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'> Ünï 🌱 \n end. "
CONTEXT = 400
_T = TypeVar("_T")


def eventually(look: Callable[[], _T]) -> _T:
    """Return the result of `look` once it is true; the page may redraw its elements meanwhile."""
    from selenium.common.exceptions import WebDriverException

    def found() -> _T | None:
        with suppress(WebDriverException):
            return look()
        return None

    return cast(_T, wait_for(found))


class Page:
    """A browser window with the page."""

    def __init__(self, browser: Any, address: str):
        self.browser, self.address = browser, address
        self.open()

    def open(self) -> None:
        self.browser.get(self.address)
        eventually(lambda: self.script("return document.body.dataset.ready"))

    def size(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)  # type: ignore[no-any-return]

    def one(self, selector: str) -> Any:
        return eventually(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        return str(self.one(selector).get_property("textContent"))

    def last(self, selector: str) -> str:
        return str(self.all(selector)[-1].get_property("textContent"))

    def click(self, selector: str) -> None:
        """Click the last element of a selector, once it is there."""
        eventually(lambda: self.all(selector)[-1].is_enabled() and (self.all(selector)[-1].click() or True))

    def press(self, label: str) -> None:
        """Press the last button with a label for screen readers."""
        self.click(f'button[aria-label="{label}"]')

    def choose(self, field: str, name: str) -> None:
        self.script(
            "const list = document.getElementById(arguments[0]); list.value = arguments[1]; "
            "list.dispatchEvent(new Event('change'))",
            *(field, name),
        )

    def set(self, setting: str, value: str) -> None:
        self.script(f"document.querySelector('[name={setting}]').value = arguments[0]", value)

    def fill(self, selector: str, text: str) -> None:
        """Add a text to that in a box at once: the driver types a long one letter by letter."""
        self.script("document.querySelector(arguments[0]).value += arguments[1]", selector, text)

    def say(self, message: str) -> None:
        self.fill("#message", message[:-1])
        self.one("#message").send_keys(message[-1:])
        self.click("#send")

    def finished(self, answers: int = 1) -> None:
        eventually(lambda: self.one("#send").is_displayed() and len(self.all(".answer .tools")) >= answers)

    def script(self, source: str, *values: Any) -> Any:
        return self.browser.execute_script(source, *values)


def prompt_of(engine: ScriptedEngine, tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(list(engine.requests[-1].prompt_ids), skip_special_tokens=False))
