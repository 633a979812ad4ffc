"""The page, in a real browser."""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar, cast

import httpx
import pytest
from tokenizers import AddedToken, Tokenizer

from homegrown.serving.service import Model, Service
from homegrown.tokenizer.chat import Chat
from tests.serving.running import running
from tests.serving.scripted import OTHERS, SPEED, ScriptedEngine
from tests.waiting import wait_for

pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]

PLAIN, SMALLER = "pretrain@3", "quantize@2:int8"
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the other top tokens of the scripted engine, one of which looks like markup."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.add_tokens([AddedToken(token, normalized=False) for token in OTHERS])
    own.encode_special_tokens = True
    return own


@pytest.fixture(scope="module")
def engines(tokenizer: Tokenizer) -> dict[str, ScriptedEngine]:
    return {name: ScriptedEngine(name, tokenizer, MARKUP, context=CONTEXT) for name in (PLAIN, SMALLER)}


@pytest.fixture(scope="module")
def address(engines: dict[str, ScriptedEngine], tokenizer: Tokenizer, contacted_hosts: list[str]) -> Iterator[str]:
    # Imported here, because it brings Gradio, whose requests on import count too.
    from homegrown.serving.api import application

    service = Service([Model(name, 0) for name in engines], queue=0)
    for name, engine in engines.items():
        service.ready(name, engine, Chat(tokenizer))
    with running(application(service, key=None, hosts=["127.0.0.1"])) as url:
        yield url
        service.stop()  # as Ctrl-C does; an open page does not delay the shutdown


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


class Page:
    """The page in a browser window."""

    def __init__(self, browser: Any, address: str):
        self.browser = browser
        browser.get(address)
        self.all("#message textarea", least=1)

    def all(self, selector: str, least: int = 0) -> list[Any]:
        def find() -> list[Any]:
            return self.browser.find_elements("css selector", selector)  # type: ignore[no-any-return]

        return eventually(lambda: len(find()) >= least and find()) if least else find()

    def one(self, selector: str) -> Any:
        return self.all(selector, least=1)[0]

    def text(self, selector: str) -> str:
        return str(self.one(selector).get_property("textContent"))

    def click(self, selector: str) -> None:
        eventually(lambda: self.one(selector).is_enabled() and (self.one(selector).click() or True))

    def choose(self, listed: str, name: str) -> None:
        self.click(f"{listed} input")
        eventually(lambda: [one.click() or True for one in self.all("[role=option]") if name in one.text][:1])

    def complete(self, prompt: str) -> None:
        tabs = self.all("button[role=tab]", least=2)
        next(tab for tab in tabs if tab.text == "Completion").click()
        box = eventually(lambda: self.one("#prompt textarea").is_displayed() and self.one("#prompt textarea"))
        self.script("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, prompt)
        self.click("#completion-start")

    def say(self, message: str) -> None:
        box = self.one("#message textarea")
        box.send_keys(message)
        self.click("#chat-start")

    def tokens(self, place: int, tab: str = "completion") -> int:
        return len(self.all(f"#{tab}-{place}-text .token"))

    def script(self, source: str, *values: Any) -> Any:
        return self.browser.execute_script(source, *values)


@pytest.fixture
def page(chromium: Any, address: str, engines: dict[str, ScriptedEngine]) -> Page:
    for engine in engines.values():
        engine.text, engine.allowed, engine.rows = MARKUP, math.inf, 4
        engine.requests.clear()
        engine.cancelled = 0
    return Page(chromium, address)


def test_chat_streams_until_it_is_stopped_and_continues(
    page: Page, engines: dict[str, ScriptedEngine], tokenizer: Tokenizer
) -> None:
    engine = engines[PLAIN]
    engine.allowed = 20
    page.say("Who are <b>you</b><img src=x onerror='window.ran = 3'>?")
    assert 0 < eventually(lambda: page.tokens(0, "chat")) <= 20
    engine.allowed = 40
    eventually(lambda: page.tokens(0, "chat") > 20)
    page.one("#message textarea").send_keys("And")
    page.click("#chat-stop")
    eventually(lambda: "stopped" in page.text("#chat-0-foot"))

    assert f"{SPEED:.1f} tokens/s" in page.text("#chat-0-foot") and f"of {CONTEXT}" in page.text("#chat-0-foot")
    assert page.text("#chat-0-text .user") == "Who are <b>you</b><img src=x onerror='window.ran = 3'>?"
    answer = page.text("#chat-0-text .assistant")
    assert 0 < len(answer) < len(engine.text) and engine.text.startswith(answer)
    assert engine.cancelled == 1

    # The text typed meanwhile is kept, and the answer so far is part of the conversation.
    engine.text, engine.allowed = "Yes.", math.inf
    page.say(" now?")
    eventually(lambda: "finished" in page.text("#chat-0-foot"))
    prompt = tokenizer.decode(engine.requests[-1].prompt_ids, skip_special_tokens=False)
    assert answer in prompt and "user\nAnd now?" in prompt
    assert page.text("#chat-0-text .turn:last-child") == "Yes."
    page.click("#chat-new")
    eventually(lambda: not page.all("#chat-0-text .turn"))


def test_an_output_follows_its_text_until_a_reader_scrolls(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    engine, pane = engines[PLAIN], "const pane = document.querySelector('#chat-0-text.block.output');"
    rest = f"{pane} return pane.scrollHeight - pane.scrollTop - pane.clientHeight"

    def grown(to: float) -> None:
        before, engine.allowed = page.tokens(0, "chat"), to
        eventually(lambda: page.tokens(0, "chat") > before + 20)

    engine.text, engine.allowed = "y\n" * 90, 0
    page.say("Count.")
    grown(70)
    assert page.script(f"{pane} return pane.scrollTop") > 100
    eventually(lambda: abs(page.script(rest)) < 40)
    page.script(f"{pane} pane.scrollTop = 50")
    eventually(lambda: page.script(f"{pane} return pane.scrollTop") == 50)
    grown(110)
    assert page.script(f"{pane} return pane.scrollTop") == 50
    page.script(f"{pane} pane.scrollTop = pane.scrollHeight")
    grown(math.inf)
    eventually(lambda: "finished" in page.text("#chat-0-foot"))
    eventually(lambda: abs(page.script(rest)) < 40)

    page.script(f"{pane} pane.scrollTop = 0")
    eventually(lambda: page.script(f"{pane} return pane.scrollTop") == 0)
    engine.text = "Yes."
    page.say("And now?")
    eventually(lambda: page.text("#chat-0-text .turn:last-child") == "Yes.")
    eventually(lambda: abs(page.script(rest)) < 40)


def test_two_models_continue_the_same_prompt_side_by_side(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    from selenium.webdriver import ActionChains

    for engine in engines.values():
        engine.allowed = 20
    page.choose("#compare", SMALLER)
    eventually(lambda: len([one for one in page.all(".pane") if one.is_displayed()]) == 2)
    page.complete("Once <i>upon</i>")
    eventually(lambda: page.tokens(0) and page.tokens(1))
    assert page.tokens(0) <= 20 >= page.tokens(1)
    assert page.one("#completion-stop").is_enabled() and not page.one("#completion-start").is_enabled()
    for engine in engines.values():
        engine.allowed = math.inf
    for place, name in enumerate((PLAIN, SMALLER)):
        eventually(lambda place=place: "finished" in page.text(f"#completion-{place}-foot"))
        assert name in page.text(f"#completion-{place}-foot") and "tokens/s" in page.text(f"#completion-{place}-foot")
        assert page.text(f"#completion-{place}-text .text") == "Once <i>upon</i>" + MARKUP
    plain, smaller = (engine.requests[-1] for engine in engines.values())
    assert plain == smaller

    ActionChains(page.browser).move_to_element(page.all("#completion-0-text .token")[1]).perform()
    lines = eventually(lambda: page.one("#token-tip").is_displayed() and page.all("#token-tip div"))
    assert [line.text.split() for line in lines] == [["60.0%", "s"], ["25.0%", "␣or"], ["15.0%", "<i>"]]

    assert not page.all(".output script, .output img, .output i, #token-tip i")
    assert page.script("return window.ran") is None


def test_a_mistake_is_an_error_message(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    engines[PLAIN].text = "x" * CONTEXT
    page.complete("a" * (CONTEXT - 11))
    message = f"The context of {CONTEXT} tokens is full: only 10 of 200 requested tokens fit"
    eventually(lambda: message in page.text("#completion-0-foot"))

    page.complete("a" * CONTEXT)
    eventually(lambda: f"context length is {CONTEXT} tokens" in page.text("#completion-0-foot .error"))

    page.click("#more > button")
    eventually(lambda: page.one("#seed textarea, #seed input").is_displayed())
    page.one("#seed textarea, #seed input").send_keys("x")
    page.click("#completion-start")
    eventually(lambda: "is not a whole number" in page.text("body"))
    page.one("#seed textarea, #seed input").send_keys("\b7")
    page.complete("a")
    eventually(lambda: "seed 7" in page.text("#completion-0-foot"))
    assert engines[PLAIN].requests[-1].seed == 7

    engines[PLAIN].rows = 0
    page.complete("a")
    eventually(lambda: "try again soon" in page.text("#completion-0-foot .error"))


def test_two_tabs_of_a_browser_do_not_disturb_each_other(
    page: Page, address: str, chromium: Any, engines: dict[str, ScriptedEngine]
) -> None:
    engines[PLAIN].allowed = 20
    page.complete("first ")
    eventually(lambda: page.tokens(0))
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    second = Page(chromium, address)
    second.complete("second ")
    eventually(lambda: second.tokens(0))
    engines[PLAIN].allowed = math.inf
    eventually(lambda: "finished" in second.text("#completion-0-foot"))
    assert second.text("#completion-0-text .text") == "second " + MARKUP
    chromium.close()
    chromium.switch_to.window(first)
    eventually(lambda: "finished" in page.text("#completion-0-foot"))
    assert page.text("#completion-0-text .text") == "first " + MARKUP


def test_on_a_phone_nothing_is_cut_off(page: Page, chromium: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.choose("#compare", SMALLER)
        page.click("#more > button")
        eventually(lambda: page.one("#seed").is_displayed())
        sliders = [one for one in page.all("input[type=range]") if one.is_displayed()]
        assert len(sliders) == 9
        assert page.script("return document.documentElement.scrollWidth") == 390
        wide = "return [...document.querySelectorAll('input, textarea, button, .pane')].filter(one => one.offsetWidth)"
        edges = page.script(f"{wide}.map(one => [one.getBoundingClientRect().left, one.getBoundingClientRect().right])")
        assert min(left for left, _ in edges) >= 0 and max(right for _, right in edges) <= 390
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_follows_the_system_until_it_is_switched(page: Page, chromium: Any, address: str) -> None:
    def is_dark() -> bool:
        return bool(page.script("return document.body.classList.contains('dark')"))

    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    try:
        prefer("dark")
        Page(chromium, address)
        eventually(is_dark)
        page.click("#theme")
        eventually(lambda: not is_dark())
        Page(chromium, address)
        eventually(lambda: not is_dark())
    finally:
        prefer("")
        page.script("localStorage.clear()")


def test_a_browser_would_not_run_a_script_in_an_output(page: Page, address: str) -> None:
    page.script("document.querySelector('.text').innerHTML = \"<img src=x onerror='window.ran = 4'>\"")
    eventually(lambda: any("onerror" in one["message"] or "inline event" in one["message"] for one in _console(page)))
    assert page.script("return window.ran") is None

    policy = httpx.get(address).headers["content-security-policy"]
    scripts = policy.split("script-src ")[1].split(";")[0]
    assert "unsafe-inline" not in scripts and "connect-src 'self'" in policy and "http" not in policy
    for path in ("gradio_api/upload", "gradio_api/info", "gradio_api/file=/etc/passwd", "gradio_api/vibe-code", "x"):
        assert httpx.get(f"{address}/{path}").status_code == 404
    assert httpx.get(address, headers={"Host": "elsewhere.example"}).status_code == 400
    assert httpx.post(f"{address}/gradio_api/queue/join", headers={"Origin": "http://x.example"}).status_code == 403


def test_nothing_contacts_another_host(chromium: Any, address: str, contacted_hosts: list[str]) -> None:
    messages = [json.loads(one["message"])["message"] for one in chromium.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]
    assert asked and all(url.startswith(f"{address}/") for url in asked)
    assert set(contacted_hosts) <= {"127.0.0.1", "localhost", "::1", "None"}


def _console(page: Page) -> list[dict[str, str]]:
    return page.browser.get_log("browser")  # type: ignore[no-any-return]
