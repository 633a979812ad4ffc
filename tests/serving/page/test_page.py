"""The page, in a real browser."""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar, cast

import pytest
from tokenizers import AddedToken, Tokenizer

from homegrown.rating.feedback import Feedback, RatedPair
from homegrown.serving.api import application
from homegrown.serving.service import Model, Service
from homegrown.store.artifacts import Store
from homegrown.tokenizer.chat import Chat
from tests.serving.running import running
from tests.serving.scripted import OTHERS, ScriptedEngine
from tests.waiting import wait_for

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]

TUNED, SMALLER, PLAIN = "finetune@2", "quantize@2:int8", "pretrain@3"
MARKUP = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'> Ünï 🌱 \n end. "
CONTEXT = 400
SIZES = [(390, 844), (768, 1024), (1280, 900)]

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
    return {name: ScriptedEngine(name, tokenizer, MARKUP, context=CONTEXT) for name in (TUNED, SMALLER, PLAIN)}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("page") / "artifacts")


@pytest.fixture(scope="module")
def address(
    engines: dict[str, ScriptedEngine], tokenizer: Tokenizer, contacted_hosts: list[str], book: Store
) -> Iterator[str]:
    service = Service([Model(name, 0, name != PLAIN) for name in engines], queue=0)
    for name, engine in engines.items():
        service.ready(name, engine, Chat(tokenizer))
    with running(application(service, key=None, hosts=["127.0.0.1"], store=book)) as url:
        yield url
        service.stop()


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


@pytest.fixture
def page(chromium: Any, address: str, engines: dict[str, ScriptedEngine], book: Store) -> Iterator[Page]:
    for engine in engines.values():
        engine.text, engine.allowed, engine.rows = MARKUP, math.inf, 4
        engine.requests.clear()
        engine.cancelled = 0
    for path in book.root.glob("*.sqlite"):
        path.unlink()
    made = Page(chromium, address)
    made.size(1280, 900)
    yield made
    chromium.execute_script("localStorage.clear()")


def pairs(book: Store) -> list[RatedPair]:
    return Feedback(book).pairs().pairs


def prompt_of(engine: ScriptedEngine, tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(list(engine.requests[-1].prompt_ids), skip_special_tokens=False))


def test_chat_streams_until_it_is_stopped_and_is_continued(
    page: Page, engines: dict[str, ScriptedEngine], tokenizer: Tokenizer
) -> None:
    engine = engines[TUNED]
    engine.allowed = 20
    question = "Who are <b>you</b><img src=x onerror='window.ran = 3'>?"
    page.say(question)
    eventually(lambda: page.text(".answer .text").startswith("<script>"))
    before = len(page.text(".answer .text"))
    engine.allowed = 40
    eventually(lambda: len(page.text(".answer .text")) > before)
    page.one("#message").send_keys("And")
    page.click("#stop")
    eventually(lambda: "stopped" in page.text(".facts"))
    assert page.text(".user .text") == question and engine.cancelled == 1
    answer = page.text(".answer .text")
    assert 0 < len(answer) < len(engine.text) and engine.text.startswith(answer)

    # Text typed meanwhile remains; the answer continues where it was stopped.
    engine.text, engine.allowed = " (the rest)", math.inf
    page.press("Continue this answer")
    eventually(lambda: "finished" in page.text(".facts"))
    assert page.text(".answer .text") == answer + " (the rest)"
    assert prompt_of(engine, tokenizer).endswith(answer)
    engine.text = "Yes."
    page.say(" now?")
    page.finished(2)
    assert page.last(".answer .text") == "Yes." and "context" in page.last(".facts")
    prompt = prompt_of(engine, tokenizer)
    assert f"{answer} (the rest)" in prompt and "And now?" in prompt
    assert not page.all("main script, main img") and page.script("return window.ran") is None


def test_an_output_follows_its_text_until_a_reader_scrolls(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    engine, pane = engines[TUNED], "const pane = document.getElementById('scroller');"
    rest = f"{pane} return pane.scrollHeight - pane.scrollTop - pane.clientHeight"

    def grown(to: float) -> None:
        before, engine.allowed = page.text(".answer .text").count("y"), to
        eventually(lambda: page.text(".answer .text").count("y") > before + 10)

    page.size(800, 500)
    engine.text, engine.allowed = "y\n" * 90, 0
    page.say("Count.")
    grown(70)
    eventually(lambda: page.script(f"{pane} return pane.scrollTop") > 100 and abs(page.script(rest)) < 40)
    page.script(f"{pane} pane.scrollTop = 50")
    eventually(lambda: page.script(f"{pane} return pane.scrollTop") == 50)
    grown(110)
    assert page.script(f"{pane} return pane.scrollTop") == 50
    # Only the conversation scrolls, and a button leads back to its end.
    assert page.script("return document.documentElement.scrollHeight <= innerHeight")
    page.click("#end")
    eventually(lambda: abs(page.script(rest)) < 40 and not page.one("#end").is_displayed())
    grown(math.inf)
    page.finished()
    eventually(lambda: abs(page.script(rest)) < 40)
    page.script(f"{pane} pane.scrollTop = 0")
    engine.text = "Yes."
    page.say("And now?")
    page.finished(2)
    eventually(lambda: abs(page.script(rest)) < 40)


def test_the_preferred_of_two_answers_is_a_pair(
    page: Page, engines: dict[str, ScriptedEngine], book: Store, tokenizer: Tokenizer
) -> None:
    engines[TUNED].text, engines[SMALLER].text = "Good.", "Better."
    page.set("system", "Be kind.")
    page.choose("compare", SMALLER)
    page.say("Which?")
    page.finished(2)
    one, other = (engines[name].requests[-1] for name in (TUNED, SMALLER))
    assert (one.prompt_ids, one.seed, one.sampling) == (other.prompt_ids, other.seed, other.sampling)
    page.press("Prefer answer 2")
    (pair,) = eventually(lambda: pairs(book))
    assert pair.prompt == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Which?"}]
    assert (pair.chosen.text, pair.chosen.model) == ("Better.", SMALLER)
    assert (pair.rejected.text, pair.rejected.model) == ("Good.", TUNED)
    assert pair.chosen.seed == pair.rejected.seed and pair.chosen.settings["top_k"] == 50
    # It is the one that the conversation goes on from.
    page.choose("compare", "another seed")
    page.say("And now?")
    page.finished(3)
    assert "Better." in prompt_of(engines[TUNED], tokenizer)
    assert len({request.seed for request in engines[TUNED].requests[-2:]}) == 2


def test_thumbs_and_edits_are_pairs(page: Page, engines: dict[str, ScriptedEngine], book: Store) -> None:
    engine = engines[TUNED]
    engine.text = "Bad."
    page.say("Why?")
    page.finished()
    page.press("Bad answer")
    engine.text = "Good."
    page.press("Generate another answer")
    eventually(lambda: page.text(".answer .text") == "Good." and page.all('[aria-label="Good answer"]'))
    page.press("Good answer")
    (pair,) = eventually(lambda: pairs(book))
    assert (pair.kind, pair.chosen.text, pair.rejected.text) == ("thumb", "Good.", "Bad.")
    assert pair.chosen.seed != pair.rejected.seed
    page.press("Previous answer")
    eventually(lambda: page.text(".answer .text") == "Bad.")
    assert page.one('[aria-label="Bad answer"]').get_attribute("aria-pressed") == "true"

    page.press("Edit this answer, which teaches the model")
    box = page.one("textarea[aria-label='Edited text']")
    assert box == page.browser.switch_to.active_element
    box.clear()
    box.send_keys("Best.")
    page.press("Keep")
    edit = eventually(lambda: [one for one in pairs(book) if one.kind == "edit"])[0]
    assert (edit.chosen.text, edit.rejected.text, edit.rejected.model) == ("Best.", "Bad.", TUNED)
    assert page.text(".answer .text") == "Best." and "edited" in page.text(".facts")


def test_a_message_is_edited_and_conversations_are_kept(
    page: Page, engines: dict[str, ScriptedEngine], tokenizer: Tokenizer
) -> None:
    engine = engines[TUNED]
    for place, word in enumerate(("One", "Two"), 1):
        engine.text = f"{word}, **bold**."
        page.say(f"{word}?")
        page.finished(place)
    engine.text = "Three."
    page.press("Edit this message and continue from there")
    box = page.one("textarea[aria-label='Edited text']")
    box.send_keys("!!")
    page.press("Send")
    eventually(lambda: page.last(".answer .text") == "Three.")
    assert len(page.all(".user")) == 2 and "Two?!!" in prompt_of(engine, tokenizer)
    assert "Two, " not in prompt_of(engine, tokenizer)

    # What followed is in the conversation before the edit, after a reload too.
    def talks() -> list[Any]:
        return [one for one in page.all("#conversations .open") if one.text == "One?"]

    page.finished(2)
    eventually(lambda: len(talks()) == 2)
    page.open()
    eventually(lambda: len(talks()) == 2)
    talks()[1].click()
    eventually(lambda: len(page.all(".user")) == 2)
    assert page.last(".answer .text") == "Two, bold." and page.all(".answer strong")
    page.script(
        "window.made = []; URL.createObjectURL = (blob) => { blob.text().then((text) => window.made.push(text)); "
        "return '#'; }"
    )
    page.press("Export this conversation as Markdown")
    page.press("Export this conversation as JSON")
    text, talk = eventually(lambda: (found := page.script("return window.made")) and len(found) == 2 and found)
    assert "## You\n\nOne?" in text and f"## {TUNED}\n\nTwo, **bold**." in text
    assert [one["role"] for one in json.loads(talk)["messages"]] == ["user", "assistant"] * 2
    page.script("window.confirm = () => true")
    page.all('[aria-label="Delete One?"]')[1].click()
    eventually(lambda: len(talks()) == 1 and not page.all(".turn"))


def test_a_pretrained_model_offers_completion(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    assert not page.one("#notice").is_displayed()
    page.choose("model", PLAIN)
    assert f"{PLAIN} has only been pretrained" in page.text("#notice")
    page.click("#use-completion")
    page.choose("compare", SMALLER)
    page.say("Once <i>upon</i>")
    page.finished(2)
    assert [one.get_property("textContent") for one in page.all(".answer .text")] == ["Once <i>upon</i>" + MARKUP] * 2
    plain, smaller = (engines[name].requests[-1] for name in (PLAIN, SMALLER))
    assert plain == smaller
    assert not page.all(".prefer")


def test_what_is_too_long_is_said_truly(page: Page, engines: dict[str, ScriptedEngine], tokenizer: Tokenizer) -> None:
    engine = engines[TUNED]
    page.say("a" * CONTEXT)
    eventually(lambda: page.one("#failure").is_displayed())
    message = page.text("#failure")
    count, over = int(message.split(" tokens")[0].split()[-1]), int(message.split("Shorten it by ")[1].split()[0])
    assert not engine.requests and f"the context of {TUNED} is {CONTEXT}" in message
    # Exactly what the message says is enough.
    engine.text = "x" * CONTEXT
    box = page.one("#message")
    eventually(lambda: box.get_property("value") == "a" * CONTEXT)
    assert not page.all(".turn") and not page.all("#conversations li")
    assert page.script("return document.activeElement.id") == "message"
    box.clear()
    page.say("a" * (CONTEXT - over))
    page.finished()
    assert (
        len(engine.requests[-1].prompt_ids) == count - over == CONTEXT - 1 and not page.one("#failure").is_displayed()
    )
    assert f"The context of {CONTEXT} tokens is full: only 1 of 200 requested tokens fit." in page.last(".note")
    # Old messages are left out, and it is said.
    engine.text = "Yes."
    page.say("b" * 250)
    page.finished(2)
    assert "the oldest 2 messages were left out" in page.last(".note")
    assert "aa" not in prompt_of(engine, tokenizer) and page.last(".answer .text") == "Yes."

    page.set("temperature", "9")
    page.say("c")
    assert page.one("#settings").is_displayed() and len(page.all(".user")) == 2
    assert page.one("#message").get_property("value") == "c"
    page.set("temperature", "1")
    page.set("seed", "7")
    page.click("#settings button")
    engine.rows = 0
    page.click("#send")
    eventually(lambda: "at a time" in page.text("#failure"))
    engine.rows = 4
    eventually(lambda: page.one("#message").get_property("value") == "c")
    page.click("#send")
    eventually(lambda: "seed 7" in page.last(".facts") and page.last(".answer .text") == "Yes.")
    # What cannot replace a turn leaves it, and all after it, as they were.
    page.finished(3)
    page.one("#message").send_keys("draft")
    said = [one.get_property("textContent") for one in page.all(".turn .text")]
    for label, failed in (
        ("Edit this message and continue from there", "a" * CONTEXT),
        ("Generate another answer", ""),
    ):
        engine.rows = 4 if failed else 0
        page.script(f"document.querySelectorAll('[aria-label=\"{label}\"]')[0].click()")
        if failed:
            page.one(".editor textarea").clear()
            page.fill(".editor textarea", failed)
            page.press("Send")
            eventually(lambda: page.text("#failure").startswith("Too long"))
            assert page.one(".editor textarea").get_property("value") == failed
            page.press("Cancel")
        else:
            eventually(lambda: "at a time" in page.text("#failure"))
        assert [one.get_property("textContent") for one in page.all(".turn .text")] == said
    assert page.one("#message").get_property("value") == "draft"
    engine.rows, engine.text = 4, "!"  # more does not fit
    page.script("document.querySelectorAll('[aria-label=\"Generate another answer\"]')[0].click()")
    eventually(lambda: len(page.all(".answer")) == 1 and page.last(".answer .text") == "!")


HOSTILE = """# Title <img src=x onerror='window.ran = 5'>

1. one `code` and **bold**
2. two
   - inner *slant*

| a | b |
| --- | --- |
| 1 | <script>window.ran = 6</script> |

```js
window.ran = 7; // `not` **bold**
```
[good](https://example.org/a_(b)) [bad](javascript:window.ran=8) <a href="javascript:window.ran=9">x</a>
snake_case_name and **open
"""


def test_markdown_is_formatted_and_never_markup(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    engines[TUNED].text = HOSTILE
    page.set("max_tokens", "390")
    engines[TUNED].context = 2000
    try:
        page.say("Show.")
        page.finished()
    finally:
        engines[TUNED].context = CONTEXT

    def inside(selector: str) -> list[str]:
        return [one.get_property("textContent") for one in page.all(f".answer .text {selector}")]

    assert inside("h4") == ["Title <img src=x onerror='window.ran = 5'>"]
    assert inside("ol > li > p") == ["one code and bold", "two"] and inside("li li em") == ["slant"]
    assert inside("strong") == ["bold"] and inside("li code") == ["code"]
    assert inside("td") == ["1", "<script>window.ran = 6</script>"]
    assert inside("pre") == ["window.ran = 7; // `not` **bold**"]
    assert [one.get_attribute("href") for one in page.all(".answer a")] == ["https://example.org/a_(b)"]
    assert "[bad](javascript:window.ran=8) <a href" in inside("")[0] and "snake_case_name and **open" in inside("")[0]
    assert not page.all(".answer script, .answer img")
    # Were it markup, the browser would not run it either.
    page.script("document.querySelector('.answer').innerHTML = \"<img src=x onerror='window.ran = 4'>\"")
    eventually(lambda: any("inline" in one["message"] for one in page.browser.get_log("browser")))
    assert page.script("return window.ran") is None


def test_probabilities_are_shown_by_mouse_and_by_keyboard(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    from selenium.webdriver import ActionChains, Keys

    page.script("document.getElementById('probabilities').click()")
    page.say("Show.")
    page.finished()
    assert page.text(".answer .text") == MARKUP
    ActionChains(page.browser).move_to_element(page.all(".token")[1]).perform()
    lines = eventually(lambda: page.one("#tip").is_displayed() and page.all("#tip div"))
    expected = [["60.0%", "s"], ["25.0%", "␣or"], ["15.0%", "<i>"]]
    assert [line.text.split() for line in lines] == expected
    page.script("document.querySelector('.answer .text').focus()")
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert [line.text.split() for line in page.all("#tip div")] == expected
    assert page.browser.switch_to.active_element.get_attribute("aria-describedby") == "tip"
    assert not page.all("#tip i")


# The contrast of each visible text with what is behind it, by WCAG 2.2's formula; small text needs 4.5.
CONTRAST = """
const rgb = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => { const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
const behind = (one) => { for (; one; one = one.parentElement) {
  const color = rgb(getComputedStyle(one).backgroundColor); if (color[3] !== 0) return color; }
  return [255, 255, 255]; };
const found = [];
for (const one of document.querySelectorAll('body *')) {
  const style = getComputedStyle(one);
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!(own || one.matches('input, textarea, select')) || !one.checkVisibility({ visibilityProperty: true })) continue;
  if (one.disabled || style.clipPath !== 'none' || one.closest('.hidden')) continue;
  const [text, ground] = [light(rgb(style.color)), light(behind(one))].sort().reverse();
  found.push([(text + 0.05) / (ground + 0.05), `${one.tagName} ${one.className} ${one.textContent.slice(0, 30)}`]);
}
return found;
"""

UNNAMED = """
return [...document.querySelectorAll('button, input, select, textarea, [tabindex="0"]')].filter((one) =>
  !one.getAttribute('aria-label') && !one.labels?.length && !one.textContent.trim()).map((one) => one.outerHTML);
"""


@pytest.mark.parametrize("size", SIZES)
def test_contrast_labels_and_room_in_both_themes(
    page: Page, engines: dict[str, ScriptedEngine], size: tuple[int, int]
) -> None:
    width, height = size
    page.size(*size)
    try:
        engines[TUNED].text = "Text with `code` and [a link](https://example.org).\n\n> A quote\n\n```\nx = 1\n```\n"
        page.choose("model", PLAIN)
        page.choose("compare", "another seed")
        page.say("Why?")
        page.finished(2)
        page.choose("model", TUNED)
        page.choose("compare", "")
        page.say("Why?" * 60)
        page.finished(3)
        page.choose("model", PLAIN)  # its notice
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            for shows in ("", "document.getElementById('list').classList.add('shown');", "settings.showModal();"):
                page.script(shows)
                contrasts = page.script(CONTRAST)
                assert len(contrasts) > 10
                assert [one for one in contrasts if one[0] < 4.5] == []
            page.script("settings.close(); document.getElementById('list').classList.remove('shown')")
        assert page.script(UNNAMED) == []
        assert page.script("return document.documentElement.scrollWidth") == width
        edges = page.script(
            "return [...document.querySelectorAll('header *, main button, textarea, .answer')].filter((one) => "
            "one.checkVisibility()).map((one) => one.getBoundingClientRect()).flatMap(({left, right}) => [left, right])"
        )
        assert min(edges) >= 0 and max(edges) <= width
        # The conversation has most of the first screen, and the box to type in is on it.
        page.open()
        assert page.one("#scroller").rect["height"] > 0.6 * height
        assert page.one("#message").is_displayed() and page.script(
            "return document.getElementById('composer').getBoundingClientRect().bottom <= innerHeight"
        )
    finally:
        page.prefer("")


def test_the_keyboard_reaches_everything_in_reading_order(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    from selenium.webdriver import ActionChains, Keys

    def tab() -> str:
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        one = page.browser.switch_to.active_element
        return str(one.get_attribute("id") or one.get_attribute("aria-label") or one.text)

    engines[TUNED].text = "Yes."
    page.one("#message").send_keys("Why?", Keys.ENTER)
    page.finished()
    eventually(lambda: page.text("#status") == "Answer: Yes.")
    assert page.one("#status").get_attribute("aria-live") == "polite"
    page.script("document.activeElement.blur(); document.querySelector('.skip').focus()")
    order = [tab() for _ in range(20)]
    assert order[:8] == ["model", "compare", "mode-chat", "mode-completion", "show-settings", "theme", "new", "Why?"]
    assert order[9:18] == [
        *("scroller", "Edit this message and continue from there", "Copy this message"),
        *("Good answer", "Bad answer", "Edit this answer, which teaches the model", "Generate another answer"),
        *("Copy this answer", "Export this conversation as Markdown"),
    ]
    assert order[19] == "message"
    page.one("#show-settings").send_keys(Keys.ENTER)
    eventually(lambda: page.one("#settings").is_displayed())
    ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
    eventually(lambda: not page.one("#settings").is_displayed())
    assert page.browser.switch_to.active_element.get_attribute("id") == "show-settings"


def test_dark_follows_the_system_until_it_is_switched(page: Page) -> None:
    def is_dark() -> bool:
        ground = page.script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in ground.strip("rgb()").split(",")) < 300

    try:
        page.prefer("dark")
        assert is_dark()
        page.click("#theme")
        assert not is_dark()
        page.open()
        assert not is_dark()
    finally:
        page.prefer("")


def test_two_tabs_of_a_browser_do_not_disturb_each_other(
    page: Page, address: str, chromium: Any, engines: dict[str, ScriptedEngine]
) -> None:
    engines[TUNED].allowed = 20
    page.say("first")
    eventually(lambda: page.text(".answer .text").startswith("<script>"))
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    second = Page(chromium, address)
    second.say("second")
    eventually(lambda: second.text(".answer .text").startswith("<script>"))
    engines[TUNED].allowed = math.inf
    second.finished()
    assert second.text(".user .text") == "second"
    chromium.close()
    chromium.switch_to.window(first)
    page.finished()
    assert page.text(".user .text") == "first" and "end." in page.text(".answer .text")


def test_nothing_contacts_another_host(chromium: Any, address: str, contacted_hosts: list[str]) -> None:
    messages = [json.loads(one["message"])["message"] for one in chromium.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]
    assert asked and all(url.startswith(f"{address}/") for url in asked)
    assert set(contacted_hosts) <= {"127.0.0.1", "localhost", "::1", "None"}
