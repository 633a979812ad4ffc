"""HTML pages from one template: a page is one file, asks for nothing from elsewhere, and escapes all text."""

import base64
from collections.abc import Mapping, Sequence

from jinja2 import DictLoader, Environment, StrictUndefined

from homegrown.reporting.blocks import MARKS, Block, Section

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f3f4f6",
    "ink": "#1b1f24",
    "soft": "#57606a",
    "line": "#d0d5db",
    "edge": "#80868d",
    "accent": "#0072b2",
    "on-accent": "#ffffff",
    "better": "#0069a5",
    "worse": "#b34a00",
    "kept": "#0072b2",
    "read": "#80868d",
}
"""Colors by role: `soft`, `better` and `worse` are text, `edge` outlines controls, `kept` and `read` fill bars."""

DARK = {
    "paper": "#14171b",
    "panel": "#1f242a",
    "ink": "#e6e8eb",
    "soft": "#a3abb5",
    "line": "#343a42",
    "edge": "#7d858f",
    "accent": "#56b4e9",
    "on-accent": "#14171b",
    "better": "#56b4e9",
    "worse": "#e69f00",
    "kept": "#56b4e9",
    "read": "#7d858f",
}


def environment(templates: Mapping[str, str]) -> Environment:
    """Return a jinja2 environment with `page.html` and these templates; it escapes every value."""
    return Environment(
        loader=DictLoader({"page.html": _PAGE, **templates}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def as_html(title: str, sections: Sequence[Section]) -> str:
    """Return a report as one HTML page that loads nothing."""
    return _ENVIRONMENT.get_template("report.html").render(title=title, sections=sections)


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _kind(block: Block) -> str:
    return type(block).__name__


def _variables(colors: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


_STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--paper); color: var(--ink); }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .6rem; }} h3 {{ font-size: .9rem; margin: 0; }}
small {{ color: var(--soft); font-weight: normal; font-size: .85em; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); padding: .7rem 1rem;
  border-radius: 6px; }}
"""

_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{{% block head %}}{{% endblock %}}
<title>{{{{ title }}}}</title>
<style>{_STYLE}{{% block style %}}{{% endblock %}}</style>
</head>
<body>
{{% block body %}}{{% endblock %}}
</body>
</html>
"""
"""Every page; others extend it and fill its blocks."""

_REPORT = """{% extends "page.html" %}
{% from "blocks.html" import block %}
{% block head %}
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
{% endblock %}
{% block style %}
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin: .6rem 0 1.2rem; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th { font-weight: 600; } thead th { vertical-align: bottom; }
.l { text-align: left; } td.l { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
tr > :first-child { position: sticky; left: 0; background: var(--paper); }
.span { text-align: left; color: var(--soft); } .first { border-left: 1px solid var(--line); }
.interval { display: block; }
.better { color: var(--better); } .worse { color: var(--worse); }
.bar { display: inline-block; vertical-align: middle; width: 12rem; height: .8rem; margin-left: .7rem;
  background: var(--panel); border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--kept); }
img { display: block; box-sizing: border-box; max-width: 100%; margin: 1rem 0; padding: .6rem; background: white;
  border-radius: 6px; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 1rem;
  margin: .8rem 0 2rem; }
.side p { margin: .2rem 0 .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); }
summary { display: flex; gap: 1rem; padding: .35rem 0; cursor: pointer; font-variant-numeric: tabular-nums; }
summary::before { content: "▸"; color: var(--soft); } details[open] > summary::before { content: "▾"; }
summary > span { min-width: 5.5rem; text-align: right; }
summary > span:first-child { flex: 1; min-width: 0; text-align: left; overflow-wrap: anywhere; }
.opened { max-height: 70vh; overflow-y: auto; padding: 0 0 .8rem 1.2rem; }
@media (max-width: 40rem) { summary .bar { display: none; } }
@media print { .opened { max-height: none; } img { break-inside: avoid; } }
{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% for one in section.blocks %}
{{ block(one) }}
{% endfor %}
</section>
{% endfor %}
{% endblock %}
"""

_BLOCKS = """
{% macro bar(share) %}
<div class="bar"><i style="width:{{ "%.2f" | format([[100 * share, 0] | max, 100] | min) }}%"></i></div>
{%- endmacro %}

{% macro inside(cell) %}
{% if cell.verdict %}{{ marks[cell.verdict] }} {% endif %}{{ cell.text }}
{%- if cell.note %} <small>{{ cell.note }}</small>{% endif %}
{% if cell.interval %}<small class="interval">{{ cell.interval }}</small>{% endif %}
{% if cell.bar is not none %}{{ bar(cell.bar) }}{% endif %}
{% endmacro %}

{% macro table(it) %}
{% set align = it.alignment %}
{% if it.title %}<h3>{{ it.title }}</h3>
{% endif %}
<div class="wide"><table>
<thead>
{% if it.spans | selectattr(0) | list %}
<tr><th></th>{% for title, columns in it.spans %}<th class="span first" colspan="{{ columns }}">{{ title }}</th>
{%- endfor %}</tr>
{% endif %}
<tr>
{%- for title in it.header %}<th scope="col" class="{{ align[loop.index0] }}{{ " first" if loop.index0 in it.starts }}">
{{- title }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in it.cells %}
<tr>
{%- for cell in row %}
{% if loop.first %}<th scope="row" class="{{ align[0] }}">{{ inside(cell) }}</th>
{%- else %}<td class="{{ align[loop.index0] }} {{ cell.verdict }}{{ " first" if loop.index0 in it.starts }}">
{{- inside(cell) }}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% for note in it.notes %}
<p>{{ note }}</p>
{% endfor %}
{% endmacro %}

{% macro block(one) %}
{% set kind = kind_of(one) %}
{% if kind == "Table" %}
{{ table(one) }}
{%- elif kind == "Picture" %}
<img src="{{ data(one.png) }}" alt="{{ one.title }}">
{% elif kind == "Paragraph" %}
<p>{{ one.text }}</p>
{% elif kind == "Lines" %}
<ul>
{% for line in one.lines %}
<li>{{ line }}</li>
{% endfor %}
</ul>
{% elif kind == "Passage" %}
{% if one.note %}<small>{{ one.note }}</small>{% endif %}
<pre>
{{ one.text }}</pre>
{% elif kind == "SideBySide" %}
{% if one.passage %}<pre>
{{ one.passage }}</pre>{% endif %}
<div class="side">
{% for title, text, note in one.columns %}
<div><h3>{{ title }}</h3><p>{{ text }}</p><small>{{ note }}</small></div>
{% endfor %}
</div>
{% elif kind == "Details" %}
<details><summary>{% for cell in one.cells %}<span>{{ inside(cell) }}</span>{% endfor %}</summary>
<div class="opened">
{% for inner in one.blocks %}
{{ block(inner) }}
{%- endfor %}
</div></details>
{% endif %}
{% endmacro %}
"""

_ENVIRONMENT = environment({"report.html": _REPORT, "blocks.html": _BLOCKS})
_ENVIRONMENT.globals.update(marks=MARKS, data=_data, kind_of=_kind)
