"""Conversations on the page, in a real browser."""

import json
import math
from typing import Any

import pytest
from tokenizers import Tokenizer

from homegrown.rating.feedback import Feedback, RatedPair
from homegrown.store.artifacts import Store
from tests.serving.page.browser import (
    CONTEXT,
    MARKUP,
    PLAIN,
    SMALLER,
    TUNED,
    Page,
    eventually,
    needs_chromium,
    prompt_of,
)
from tests.serving.scripted import ScriptedEngine

pytestmark = [pytest.mark.slow, needs_chromium]


def pairs(book: Store) -> list[RatedPair]:
    return Feedback(book).pairs().pairs


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
    engine.text, engine.allowed = "# First\n\n" + "y\n" * 90, 0
    page.say("Count.")
    grown(70)
    page.script("document.querySelector('.answer h4').marked = true")
    eventually(lambda: page.script(f"{pane} return pane.scrollTop") > 100 and abs(page.script(rest)) < 40)
    page.script(f"{pane} pane.scrollTop = 50")
    eventually(lambda: page.script(f"{pane} return pane.scrollTop") == 50)
    grown(110)
    assert page.script(f"{pane} return pane.scrollTop") == 50
    # What was shown is not drawn again: a selection in it remains.
    assert page.script("return document.querySelector('.answer h4').marked")
    # Only the conversation scrolls, and a button leads back to its end.
    assert page.script("return document.documentElement.scrollHeight <= innerHeight")
    page.click("#end")
    eventually(lambda: abs(page.script(rest)) < 40 and not page.one("#end").is_displayed())
    page.size(400, 300)
    eventually(lambda: abs(page.script(rest)) < 40)
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
    # A title ends between characters, not inside one.
    page.say("a" * 73 + "👨‍👩‍👧‍👦" * 2 + "🌱b")
    eventually(lambda: "a" * 73 + "👨‍👩‍👧‍👦" in [one.text for one in page.all("#conversations .open")])
    # One that is deleted elsewhere is not opened, and the page says why.
    page.script(
        "return fetch('page/conversations').then((found) => found.json()).then(({ conversations }) => "
        "fetch(`page/conversations/${conversations[1].id}`, { method: 'DELETE' }))"
    )
    page.all("#conversations .open")[1].click()
    eventually(lambda: page.text("#notice") == "The conversation does not exist; it was deleted.")
    assert len(page.all("#conversations .open")) == 1 and page.last(".user .text").endswith("🌱b")


def test_a_connection_that_ends_early_is_said(page: Page) -> None:
    page.script(
        "const real = fetch; window.fetch = (path, ...rest) => path.startsWith('v1/') ? Promise.resolve(new Response("
        '\'data: {"choices":[{"delta":{"content":"Half"},"finish_reason":null}]}\\n\\n\')) : real(path, ...rest)'
    )
    page.say("Why?")
    page.finished()
    assert page.text(".answer .text") == "Half" and "before the end of the answer" in page.text(".answer .error")


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


def test_two_tabs_of_a_browser_do_not_disturb_each_other(
    page: Page, address: str, chromium: Any, engines: dict[str, ScriptedEngine]
) -> None:
    engines[TUNED].allowed = 20
    page.say("first")
    eventually(lambda: page.text(".answer .text").startswith("<script>"))
    eventually(lambda: page.all("#conversations .open"))
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    second = Page(chromium, address)
    second.size(1280, 900)
    # What is being generated in a page that may be closed is kept meanwhile, and can be continued.
    second.click("#conversations .open")
    assert second.text(".answer .text").startswith("<") and second.one('[aria-label="Continue this answer"]')
    second.click("#new")
    second.say("second")
    eventually(lambda: second.text(".answer .text").startswith("<script>"))
    second.click("#new")
    assert "stop it" in second.text("#notice") and second.text(".user .text") == "second"
    engines[TUNED].allowed = math.inf
    second.finished()
    assert second.text(".user .text") == "second" and not second.one("#notice").is_displayed()
    chromium.close()
    chromium.switch_to.window(first)
    page.finished()
    assert page.text(".user .text") == "first" and "end." in page.text(".answer .text")
