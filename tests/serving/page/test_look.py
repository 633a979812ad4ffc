"""What the page looks like and who can read it, in a real browser, and whom it contacts."""

import json
import math
from typing import Any

import pytest

from tests.serving.page.browser import CONTEXT, MARKUP, PLAIN, TUNED, Page, eventually, needs_chromium
from tests.serving.scripted import ScriptedEngine

pytestmark = [pytest.mark.slow, needs_chromium]

SIZES = [(390, 844), (768, 1024), (1280, 900)]

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
(Bare: https://example.org/wiki_(x), <https://example.org/y>.) `https://example.org/code` **HTTP://example.org/z**!
[https://example.org/inner](https://example.org/outer) javascript:window.ran=10 https:// nothttps://example.org
snake_case_name and **open
"""


def test_markdown_is_formatted_and_never_markup(page: Page, engines: dict[str, ScriptedEngine]) -> None:
    engines[TUNED].text = HOSTILE
    page.set("max_tokens", "790")
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
    assert inside("strong") == ["bold", "HTTP://example.org/z"] and inside("li code") == ["code"]
    assert inside("td") == ["1", "<script>window.ran = 6</script>"]
    assert inside("pre") == ["window.ran = 7; // `not` **bold**"]
    links = page.all(".answer a")
    assert [one.get_attribute("href") for one in links] == [
        *("https://example.org/a_(b)", "https://example.org/wiki_(x)", "https://example.org/y"),
        *("http://example.org/z", "https://example.org/outer"),
    ]
    assert {(one.get_attribute("target"), one.get_attribute("rel")) for one in links} == {
        ("_blank", "noopener noreferrer nofollow")
    }
    assert "[bad](javascript:window.ran=8) <a href" in inside("")[0] and "snake_case_name and **open" in inside("")[0]
    assert not page.all(".answer script, .answer img")
    # Were it markup, the browser would not run it either.
    page.script("document.querySelector('.answer').innerHTML = \"<img src=x onerror='window.ran = 4'>\"")
    eventually(lambda: any("inline" in one["message"] for one in page.browser.get_log("browser")))
    assert page.script("return window.ran") is None


# What CommonMark's specification and GitHub's say of these; each line of a text is a line of the answer.
MARKDOWN = {
    "foo***bar***baz **a *b* c**": "<p>foo<em><strong>bar</strong></em>baz <strong>a <em>b</em> c</strong></p>",
    "*foo**bar* snake_case __x__y *a **b*": "<p><em>foo**bar</em> snake_case __x__y *a *<em>b</em></p>",
    "*[a*](https://x.y/) ![pic](https://x.y/)": "<p>*<a>a*</a> <a>pic</a></p>",
    "`` a`b `` `c \\*a\\* &lt;&#65; ~~a~~ ~b~": "<p><code>a`b</code> `c *a* &lt;A <del>a</del> ~b~</p>",
    "**「引用」**と": "<p><strong>「引用」</strong>と</p>",
    "\\(a*b*c\\) $x_1*y*$ costs $5": "<p><span>\\(a*b*c\\)</span> <span>$x_1*y*$</span> costs $5</p>",
    "## C# and F# ##\n#a\nb\n===": "<h5>C# and F#</h5><h4>#a<br>b</h4>",
    "- a\nb\n- c\n* d": "<ul><li><p>a<br>b</p></li><li><p>c</p></li></ul><ul><li><p>d</p></li></ul>",
    "The year\n1986. was\n\n> a\nb": "<p>The year<br>1986. was</p><blockquote><p>a<br>b</p></blockquote>",
    "7. a\n8) b": '<ol start="7"><li><p>a</p></li></ol><ol start="8"><li><p>b</p></li></ol>',
    "1. a\n   ```py\n   x\n\n     y\n   ```\n2. b": '<ol start="1"><li><p>a</p><div><pre><code>x\n\n  y</code></pre>'
    "</div></li><li><p>b</p></li></ol>",
    "- a\n\n\n  b\n- c": "<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>",
    "1. a\n  - b\n    - c\n2. d": '<ol start="1"><li><p>a</p><ul><li><p>b</p><ul><li><p>c</p></li></ul></li></ul></li>'
    "<li><p>d</p></li></ol>",
    "- [ ] a\n- [x] b": '<ul><li><p><input aria-label="To do">a</p></li>'
    '<li><p><input aria-label="Done">b</p></li></ul>',
    "text\n\n    code *x*\n\n      more": "<p>text</p><div><pre><code>code *x*\n\n  more</code></pre></div>",
    "```\na\n    ```\n```\nb": "<div><pre><code>a\n    ```</code></pre></div><p>b</p>",
}

# Each took seconds to minutes, or all of the stack, by a pattern that was tried at every place.
HARD = [
    "**a*" * 25000,
    "**a** `b` " * 10000,
    "*a **b " * 14000,
    "~~a " * 25000,
    "a\n" * 50000,
    "# a " + "#" * 100000 + " b",
]

SHOWN = """
const [sources, done] = arguments;
import('/page/markdown.js').then(({ Markdown }) => done(sources.map((source) => {
  const one = document.createElement('div'), grown = document.createElement('div'), growing = new Markdown(grown);
  new Markdown(one).show(source);
  const letters = Math.min(source.length, 200);
  for (let end = 0; end <= letters; end += 1) growing.show(source.slice(0, end));
  growing.show(source);
  const same = grown.innerHTML === one.innerHTML;
  for (const made of one.querySelectorAll('*')) for (const name of made.getAttributeNames())
    if (!['start', 'aria-label'].includes(name)) made.removeAttribute(name);
  return [one.innerHTML, same, one.textContent];
})));
"""


def test_markdown_is_that_of_its_specification_whole_and_letter_by_letter(page: Page) -> None:
    found = page.browser.execute_async_script(SHOWN, list(MARKDOWN))
    assert [html for html, _, _ in found] == list(MARKDOWN.values())
    assert all(same for _, same, _ in found)
    hard = page.browser.execute_async_script(SHOWN, HARD)
    assert all(same for _, same, _ in hard) and hard[-1][2] == HARD[-1].removeprefix("# ")


SHAPES = """A word: Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung.
Values:
| Name | Value | Many | Other | Columns |
| :-- | --: | :-: | - | - |
| a \\| b | -2 | `c` | d | e | too many |
| f | 3 |

- one
  - two
    - three
      - four
        - five ***both***

مرحبا، هذا نص عربي (English) طويل.

- [عنصر](https://example.org/) `code()`
- Second

```
x = 1
```
"""


def test_a_text_of_any_shape_and_direction_is_readable_on_a_phone(
    page: Page, engines: dict[str, ScriptedEngine]
) -> None:
    page.size(390, 844)
    engines[TUNED].text, engines[TUNED].context = SHAPES, 2000
    page.set("max_tokens", "1500")
    page.say("שלום: Show.")
    page.finished()
    engines[TUNED].context = CONTEXT

    def computed(selector: str, name: str) -> list[str]:
        source = "return arguments[0].map((one) => getComputedStyle(one)[arguments[1]])"
        return list(page.script(source, page.all(f".answer .text {selector}"), name))

    assert [one.get_property("textContent") for one in page.all(".answer td")] == [
        *("a | b", "-2", "c", "d", "e"),
        *("f", "3", "", "", ""),
    ]
    assert computed("th", "textAlign") == ["start", "end", "center", "start", "start"]
    assert page.text(".answer li li li li li em strong") == "both"
    assert computed("> p", "direction") == ["ltr", "rtl"] and computed("> ul", "direction") == ["ltr", "rtl"]
    assert computed("pre", "direction") == ["ltr"] and computed("li code", "direction") == ["ltr"]
    # An item in another direction has its words in that direction, beside its sign.
    assert computed("> ul:last-of-type p", "textAlign") == ["right"] * 2
    assert set(computed("li > p", "unicodeBidi") + computed("td > span", "unicodeBidi")) == {"plaintext"}
    # The table scrolls by itself: its words are whole, and nothing else is wider than the screen.
    assert page.script("return document.querySelector('.answer th').getClientRects()[0].height") < 40
    assert page.script("return scroller.scrollWidth <= scroller.clientWidth")


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

    # Who asked by a button has the focus there again, and what is opened by the list has it.
    def focused() -> str:
        return str(page.script("return document.activeElement.ariaLabel ?? document.activeElement.id"))

    engines[TUNED].allowed = 0
    page.one('[aria-label="Generate another answer"]').send_keys(Keys.ENTER)
    eventually(lambda: focused() == "stop")
    engines[TUNED].allowed = math.inf
    eventually(lambda: focused() == "Generate another answer" and "1/2" not in page.text(".tools"))
    eventually(lambda: page.one("#conversations .open").send_keys(Keys.ENTER) or True)  # the list is drawn again
    eventually(lambda: focused() == "Conversation")
    page.script("document.activeElement.blur(); document.querySelector('.skip').focus()")
    order = [tab() for _ in range(21)]
    assert order[:8] == ["model", "compare", "mode-chat", "mode-completion", "show-settings", "theme", "new", "Why?"]
    assert order[9:19] == [
        *("scroller", "Edit this message and continue from there", "Copy this message"),
        *(
            "Previous answer",
            "Good answer",
            "Bad answer",
            "Edit this answer, which teaches the model",
            "Generate another answer",
        ),
        *("Copy this answer", "Export this conversation as Markdown"),
    ]
    assert order[20] == "message"
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


def test_nothing_contacts_another_host(chromium: Any, address: str, contacted_hosts: list[str]) -> None:
    messages = [json.loads(one["message"])["message"] for one in chromium.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]
    assert asked and all(url.startswith(f"{address}/") for url in asked)
    assert set(contacted_hosts) <= {"127.0.0.1", "localhost", "::1", "None"}
