"""The rating form as a local web page: one text at a time, no script, nothing from elsewhere."""

import secrets
from collections.abc import Sequence
from html import escape
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from homegrown.rating.answers import CRITERIA, HIGHEST, LOWEST, Answers
from homegrown.rating.items import Item

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

Score = Annotated[str, Form(pattern=f"^[{LOWEST}-{HIGHEST}]?$")]


def application(items: Sequence[Item], answers: Answers, hosts: Sequence[str]) -> FastAPI:
    """Return the web application that asks one rater about `items` and answers requests to `hosts` only.

    A form carries a token that other pages in the same browser cannot know.
    """
    by_id, token = {item.id: item for item in items}, secrets.token_urlsafe()
    application = FastAPI(openapi_url=None)
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @application.get("/")
    def show(unscored: bool = False) -> HTMLResponse:
        waiting = [item for item in items if item.id not in answers.rated]
        body = _form(waiting[0], token, len(items) - len(waiting), len(items), unscored) if waiting else _thanks(items)
        return HTMLResponse(_page(body), headers=_HEADERS)

    @application.post("/")
    def answer(
        sent: Annotated[str, Form(alias="token")],
        item: Annotated[str, Form()],
        coherence: Score = "",
        relevance: Score = "",
        grammaticality: Score = "",
        creativity: Score = "",
        factuality: Score = "",
    ) -> RedirectResponse:
        if not secrets.compare_digest(sent.encode(), token.encode()) or item not in by_id:
            raise HTTPException(403, "This form is of another session; open the page again.")
        chosen = (coherence, relevance, grammaticality, creativity, factuality)
        scores = {name: int(score) if score else None for name, score in zip(CRITERIA, chosen, strict=True)}
        if not any(scores.values()):
            return RedirectResponse("/?unscored=true", 303)
        answers.add(by_id[item], scores)
        return RedirectResponse("/", 303)

    return application


def _form(item: Item, token: str, done: int, total: int, unscored: bool) -> str:
    warning = '<p class="warning">Choose at least one score.</p>' if unscored else ""
    return f"""<p class="count"><progress value="{done}" max="{total}"></progress> text {done + 1} of {total}</p>
<article><span class="given">{escape(item.prompt)}</span>{escape(item.text) or "<em>(nothing)</em>"}</article>
<form method="post">
<input type="hidden" name="token" value="{escape(token)}"><input type="hidden" name="item" value="{escape(item.id)}">
{"".join(_criterion(name, question) for name, question in CRITERIA.items())}{warning}<button>Next</button>
</form>
<p class="note">Grey was given; judge the rest. {LOWEST} is bad, {HIGHEST} is good; a criterion can stay open. Every
answer is kept at once, so you can close the page and go on another day.</p>"""


def _criterion(name: str, question: str) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{score}"><span>{score}</span></label>'
        for score in range(LOWEST, HIGHEST + 1)
    )
    return f"<fieldset><legend>{name}<small>{escape(question)}</small></legend><div>{choices}</div></fieldset>\n"


def _thanks(items: Sequence[Item]) -> str:
    return (
        f"<h1>Thank you</h1><p>All {len(items)} texts are rated. <code>homegrown report ratings</code> shows what it "
        "comes to.</p>"
    )


def _page(body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rate this text</title><style>{_STYLE}</style></head>
<body>{body}</body></html>
"""


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #3b6ea5; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 44rem; margin: 1.5rem auto; padding: 0 1rem; }
.count { opacity: .7; font-size: .9rem; } progress { width: 8rem; accent-color: var(--accent); vertical-align: middle; }
article { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: 1rem 1.2rem;
  border-radius: 8px; }
.given { opacity: .55; }
form { margin: 1.2rem 0; }
fieldset { border: 0; border-bottom: 1px solid var(--line); padding: .55rem 0; margin: 0; display: flex;
  flex-wrap: wrap; align-items: center; gap: .3rem 1rem; }
legend { float: left; flex: 1 1 18rem; padding: 0; font-weight: 600; }
legend small { display: block; font-weight: normal; opacity: .7; }
fieldset div { display: flex; gap: .35rem; }
label { position: relative; } label input { position: absolute; inset: 0; opacity: 0; margin: 0; cursor: pointer; }
label span { display: block; width: 2.6rem; line-height: 2.6rem; text-align: center;
  border: 1px solid var(--line); border-radius: 8px; }
label input:checked + span { background: var(--accent); border-color: var(--accent); color: white; }
label input:focus-visible + span { outline: 2px solid var(--accent); outline-offset: 2px; }
button { font: inherit; margin-top: 1.1rem; padding: .6rem 2rem; border: 0; border-radius: 8px;
  background: var(--accent); color: white; }
.note, .warning { font-size: .9rem; } .note { opacity: .7; } .warning { color: #c4532f; }
"""
