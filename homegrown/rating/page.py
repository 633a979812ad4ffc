"""The rating form as a local web page: one completion at a time, without scripts, and nothing from elsewhere."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from homegrown.rating.items import Item
from homegrown.rating.ratings import CRITERIA, HIGHEST, LOWEST, Answers
from homegrown.reporting.html import environment
from homegrown.util.guard import AllowedHosts

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
    application.add_middleware(AllowedHosts, hosts=hosts, advice="open the address that the command prints")

    @application.get("/")
    def show(unscored: bool = False) -> HTMLResponse:
        waiting = [item for item in items if item.id not in answers.rated]
        done, item = len(items) - len(waiting), waiting[0] if waiting else None
        return _page(item=item, token=token, done=done, total=len(items), unscored=unscored)

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
            raise HTTPException(403, "This form belongs to another session; reload the page.")
        chosen = (coherence, relevance, grammaticality, creativity, factuality)
        scores = {name: int(score) if score else None for name, score in zip(CRITERIA, chosen, strict=True)}
        if not any(scores.values()):
            return RedirectResponse("/?unscored=true", 303)
        answers.add(by_id[item], scores)
        return RedirectResponse("/", 303)

    return application


def _page(**values: Any) -> HTMLResponse:
    page = _TEMPLATE.render(title="Rate this completion", criteria=CRITERIA, lowest=LOWEST, highest=HIGHEST, **values)
    return HTMLResponse(page, headers=_HEADERS)


_TEMPLATE = environment(
    {
        "form.html": """{% extends "page.html" %}
{% block style %}
body { font-size: 16px; max-width: 44rem; margin: 1.5rem auto; }
.soft { color: var(--soft); font-size: .9rem; } .warning { color: var(--worse); font-size: .9rem; }
progress { width: 8rem; accent-color: var(--accent); vertical-align: middle; }
article { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); padding: 1rem 1.2rem;
  border-radius: 8px; }
.given { color: var(--soft); }
form { margin: 1.2rem 0; }
fieldset { border: 0; border-bottom: 1px solid var(--line); padding: .55rem 0; margin: 0; display: flex;
  flex-wrap: wrap; align-items: center; gap: .3rem 1rem; }
legend { float: left; flex: 1 1 18rem; padding: 0; font-weight: 600; }
legend small { display: block; }
fieldset div { display: flex; gap: .35rem; }
label { position: relative; } label input { position: absolute; inset: 0; opacity: 0; margin: 0; cursor: pointer; }
label span { display: block; width: 2.6rem; line-height: 2.6rem; text-align: center;
  border: 1px solid var(--edge); border-radius: 8px; }
label input:checked + span { background: var(--accent); border-color: var(--accent); color: var(--on-accent); }
label input:focus-visible + span { outline: 2px solid var(--ink); outline-offset: 2px; }
button { font: inherit; margin-top: 1.1rem; padding: .6rem 2rem; border: 0; border-radius: 8px;
  background: var(--accent); color: var(--on-accent); }
{% endblock %}
{% block body %}
{% if item %}
<p class="soft"><progress value="{{ done }}" max="{{ total }}"></progress> {{ done + 1 }} of {{ total }}</p>
<article><span class="given">{{ item.prompt }}</span>{% if item.text %}{{ item.text }}
{%- else %}<em>(nothing)</em>{% endif %}</article>
<form method="post">
<input type="hidden" name="token" value="{{ token }}"><input type="hidden" name="item" value="{{ item.id }}">
{% for name, question in criteria.items() %}
<fieldset><legend>{{ name }}<small>{{ question }}</small></legend><div>
{%- for score in range(lowest, highest + 1) -%}
<label><input type="radio" name="{{ name }}" value="{{ score }}"><span>{{ score }}</span></label>
{%- endfor %}</div></fieldset>
{% endfor %}
{% if unscored %}<p class="warning">Choose at least one score.</p>{% endif %}
<button>Next</button>
</form>
<p class="soft">The gray text is the prompt: rate what follows. {{ lowest }} is bad, {{ highest }} is good; you can skip
a criterion. Every rating is saved at once, so you can close the page and continue later.</p>
{% else %}
<h1>Thank you</h1><p>All {{ total }} completions are rated. <code>homegrown report ratings</code> shows the result.</p>
{% endif %}
{% endblock %}
"""
    }
).get_template("form.html")
