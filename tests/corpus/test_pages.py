"""The main text of labelled pages: what must be in it, line by line, and what must not."""

from collections import Counter
from typing import NamedTuple

import pytest

from homegrown.corpus.readers.main_text import main_text

P1 = "The function below reads a file line by line and counts how often each word occurs: enough for small files."
P2 = "Every visitor may borrow three books for two weeks, and the library calls those who forget to bring them back."
P3 = "After the second winter the old bridge was closed, because its planks had become soft and nobody would repair it."
CODE = """def count(path):
    totals = {}
    with open(path) as file:
        for line in file:
            for word in line.split():
                totals[word] = totals.get(word, 0) + 1
    return totals"""
OTHER_CODE = """from collections import Counter
with open(path) as f:
    print(Counter(f.read().split()))"""
ANSWERS = [
    "You should use a Counter for this, because it is shorter and faster than your dictionary of totals.",
    "If the file is large, read it in pieces of a megabyte and add up the counters of all of them at the end.",
]
JUNK = ["Sign in", "Privacy policy", "Subscribe to our newsletter", "Related stories"]
TOP = (
    '<header><a href="/">Example</a> <a href="/login">Sign in</a></header>'
    '<nav><ul><li><a href="/">Home</a></li><li><a href="/q">Questions</a></li></ul></nav>'
)
END = (
    '<aside><h3>Related stories</h3><ul><li><a href="/1">One more story</a></li></ul></aside>'
    "<form><label>Subscribe to our newsletter</label><input></form>"
    '<footer><p><a href="/privacy">Privacy policy</a> · © Example</p></footer>'
)


class Labeled(NamedTuple):
    """The body of a page, the lines that its text must have in this order, and what it must not have."""

    body: str
    lines: list[str]
    without: list[str] = []


def code(text: str, opening: str = "<pre><code>", closing: str = "</code></pre>") -> str:
    return opening + text.replace("<", "&lt;") + "\n" + closing


def items(tag: str, texts: list[str]) -> str:
    return f"<{tag}>" + "".join(f"<li>{text}</li>" for text in texts) + f"</{tag}>"


STEPS = [
    f"Step {n}: tighten the {side} screw by a quarter turn." for n, side in enumerate(("left", "right", "upper"), 1)
]
POEM = ["The tide came in,", "the tide went out,", "and nobody asked", "what it was about."]
ROWS = [["Town", "Inhabitants", "Founded"], ["Ashford", "12,400", "1287"], ["Brill", "1,141", "1345"]]
TABLE = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in ROWS)


def stack_exchange() -> str:
    posts = "".join(
        f'<div class="answer"><div class="s-prose js-post-body" itemprop="text"><p>{answer}</p>{code(OTHER_CODE)}</div>'
        '<div class="comments"><span class="comment-copy">Thanks, that was it!</span></div></div>'
        for answer in ANSWERS
    )
    question = f'<div class="question"><div class="s-prose js-post-body"><p>{P1}</p>{code(CODE)}</div></div>'
    return f'<div id="mainbar"><h1>How do I count words?</h1>{question}<div id="answers">{posts}</div></div>'


def forum(opening: str, closing: str) -> str:
    posts = "".join(opening + f"<p>{text}</p>" + closing for text in (P1, *ANSWERS))
    return f"<h1>How do I count words?</h1><div id='posts'>{posts}</div>"


def qa() -> str:
    answers = "".join(
        f'<div itemprop="suggestedAnswer" itemscope itemtype="https://schema.org/Answer"><div itemprop="text">'
        f"<p>{answer}</p></div></div>"
        for answer in ANSWERS
    )
    return (
        '<div itemprop="mainEntity" itemscope itemtype="https://schema.org/Question"><h1>How do I count words?</h1>'
        f'<div itemprop="text"><p>{P1}</p></div>{answers}</div>'
    )


THREAD = [P1, *ANSWERS]
PAGES = {
    "documentation, <pre><code>": Labeled(f"<main><p>{P1}</p>{code(CODE)}<p>{P2}</p></main>", [P1, CODE, P2]),
    "documentation, <pre>": Labeled(
        f'<article><h1>Count</h1><p>{P1}</p>{code(CODE, "<pre>", "</pre>")}<p>{P2}</p></article>', [P1, CODE, P2]
    ),
    "documentation, Sphinx": Labeled(
        f'<div class="body" role="main"><section><h1>Count</h1><p>{P1}</p><div class="highlight-python notranslate">'
        f'<div class="highlight"><pre>{CODE}\n</pre></div></div><p>{P2}</p></section></div>',
        [P1, CODE, P2],
    ),
    "documentation, two blocks": Labeled(
        f"<article><p>{P1}</p>{code(CODE)}<p>{P2}</p>{code(OTHER_CODE)}<p>{P3}</p></article>",
        [P1, CODE, P2, OTHER_CODE, P3],
    ),
    "documentation, inline code": Labeled(
        f"<article><p>Call <code>count(path)</code> once for each file.</p><p>{P1}</p><p>{P2}</p></article>",
        ["Call count(path) once for each file.", P1, P2],
    ),
    "list": Labeled(f"<article><h1>Assembly</h1><p>{P2}</p>{items('ul', STEPS)}</article>", [P2, *STEPS]),
    "numbered list": Labeled(f"<article><h1>Assembly</h1>{items('ol', STEPS)}<p>{P2}</p></article>", [*STEPS, P2]),
    "definitions": Labeled(
        f"<article><p>{P2}</p><dl><dt>Reader</dt><dd>Whoever may borrow books.</dd></dl><p>{P3}</p></article>",
        [P2, "Reader", "Whoever may borrow books.", P3],
    ),
    "table": Labeled(
        f"<article><h1>Towns</h1><p>{P3}</p><table>{TABLE}</table><p>{P2}</p></article>",
        [P3, *(cell for row in ROWS for cell in row), P2],
    ),
    "questions, Stack Exchange": Labeled(
        stack_exchange(), [P1, CODE, ANSWERS[0], OTHER_CODE, ANSWERS[1], OTHER_CODE], ["Thanks, that was it!"]
    ),
    "questions, schema.org": Labeled(qa(), THREAD),
    "forum, Discourse": Labeled(forum('<div class="topic-post"><div class="cooked">', "</div></div>"), THREAD),
    "forum, XenForo": Labeled(forum('<article class="message"><div class="bbWrapper">', "</div></article>"), THREAD),
    "forum, phpBB": Labeled(forum('<div class="post"><div class="postbody">', "</div></div>"), THREAD),
    "forum, GitHub": Labeled(forum('<div class="item"><div class="comment-body">', "</div></div>"), THREAD),
    "short": Labeled(f"<article><h1>Opening hours</h1><p>{P2}</p></article>", [P2]),
    "shorter": Labeled(
        "<main><h1>Closed</h1><p>The library is closed on Monday because of repairs.</p></main>",
        ["The library is closed on Monday because of repairs."],
    ),
    "poem": Labeled(f"<article><h1>The tide</h1><p>{'<br>'.join(POEM)}</p><p>{P3}</p></article>", [*POEM, P3]),
    "article": Labeled(
        f"<article><p>{P3}</p><h2>The library</h2><p>{P2}</p><blockquote><p>{P1}</p></blockquote></article>",
        [P3, "The library", P2, P1],
    ),
    "comments of a blog": Labeled(
        f'<article><h1>The bridge</h1><p>{P3}</p><p>{P2}</p></article><div id="comments" class="comments">'
        "<p>First! Great post, thanks for sharing it with us.</p></div>",
        [P3, P2],
        ["First! Great post"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_keeps_its_text_once_and_in_order(name: str) -> None:
    labeled = PAGES[name]
    head = '<!doctype html><html lang="en"><head><title>A title</title></head>'
    text = main_text(f"{head}<body>{TOP}{labeled.body}{END}</body></html>", "trafilatura")
    place = 0
    for line in labeled.lines:
        assert line in text[place:], f"{line!r} is not in its place in\n{text}"
        place = text.index(line, place) + len(line)
    lines = Counter(labeled.lines)
    assert all(text.count(line) == lines[line] for line in lines if len(line) > 40), text
    if name in ("list", "numbered list", "poem"):
        assert all(any(own.endswith(line) for own in text.split("\n")) for line in labeled.lines), text
    assert not [junk for junk in [*JUNK, *labeled.without] if junk in text], text
