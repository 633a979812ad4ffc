"""The page of a comparison: one HTML file that needs nothing from elsewhere, every text in it escaped."""

import base64
from html import escape
from pathlib import Path

from homegrown.comparison.chart import draw
from homegrown.comparison.compare import Comparison
from homegrown.comparison.tables import Cell, Table, tables
from homegrown.util.errors import UserError
from homegrown.util.files import replacing


def html(comparison: Comparison) -> str:
    """Return the page: the picture, then every table."""
    drawn = draw(comparison)
    picture = ""
    if drawn:
        source = base64.b64encode(drawn).decode()
        picture = (
            f'<img src="data:image/png;base64,{source}" alt="Losses and main figures of the runs, as in the tables">'
        )
    first, *others = tables(comparison)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs side by side</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Runs side by side</h1>
{_section(first)}{picture}
{"".join(map(_section, others))}</body>
</html>
"""


def _section(table: Table) -> str:
    head = "".join(f"<th{_kind(table, number)}>{escape(title)}</th>" for number, title in enumerate(table.header))
    body = "".join(
        f"<tr>{''.join(_cell(table, number, cell) for number, cell in enumerate(row))}</tr>\n" for row in table.rows
    )
    shown = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
    notes = "".join(f"<p>{escape(note)}</p>\n" for note in table.notes)
    return f"<section><h2>{escape(table.title)}</h2>\n{shown if table.rows else ''}{notes}</section>\n"


def _cell(table: Table, number: int, cell: Cell) -> str:
    return f"<td{_kind(table, number, cell.verdict)}>{escape(cell.text)}</td>"


def _kind(table: Table, number: int, verdict: str = "") -> str:
    kinds = " ".join(filter(None, ["name" if number < table.names else "", verdict]))
    return f' class="{kinds}"' if kinds else ""


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2e8b57; --bad: #c4532f; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th.name, td.name { text-align: left; } th:first-child, td:first-child { padding-left: 0; }
thead th { font-weight: normal; opacity: .65; font-size: .85em; }
.better { color: var(--good); } .worse { color: var(--bad); }
img { max-width: 100%; margin: 1.5rem 0 0; background: white; border-radius: 6px; }
"""


_KINDS = (".html", ".png")


def kind_of(out: Path) -> str:
    """Return the ending of the file's name; raises UserError when it is neither a page's nor a picture's."""
    if out.suffix.lower() not in _KINDS:
        raise UserError(f"{out} is neither a page nor a picture by its name; let it end in .html or .png.")
    return out.suffix.lower()


def write(comparison: Comparison, out: Path) -> None:
    """Write the page or the picture, whole or not at all.

    Raises:
        UserError: the name says neither, there is nothing to draw, or the file cannot be written.
    """
    content = html(comparison).encode() if kind_of(out) == ".html" else draw(comparison)
    if content is None:
        raise UserError("The runs have no training curve and no figure in common; --out with .html shows their tables.")
    try:
        with replacing(out) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}).") from error
