"""What a report is made of, and how that is written as Markdown and as HTML; all text is escaped in both."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """A figure, and perhaps where it lies with 95% confidence."""

    text: str
    interval: str = ""

    def written(self, with_interval: bool) -> str:
        """Return both in one line."""
        return f"{self.text} ({self.interval})" if with_interval and self.interval else self.text


@dataclass(frozen=True)
class Group:
    """Some columns of a table that belong together: their title, their headers, and the cells of every row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """Rows with names; HTML shows the groups side by side, Markdown, where cells do not wrap, one below the other."""

    corner: str
    names: Sequence[str]
    groups: Sequence[Group]


@dataclass(frozen=True)
class Picture:
    """A PNG, and what it shows in words."""

    png: bytes
    title: str


@dataclass(frozen=True)
class Lines:
    """A list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Passage:
    """A text as it stands."""

    text: str


@dataclass(frozen=True)
class SideBySide:
    """A passage, and several that could follow it: title, text and note of each. Markdown leaves it out."""

    passage: str
    columns: Sequence[tuple[str, str, str]]


Block = Table | Picture | Lines | Passage | SideBySide


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    blocks: Sequence[Block]


def as_markdown(
    sections: Sequence[Section],
    *,
    picture: Callable[[Picture], str] | None = None,
    width: int = 10_000,
    level: int = 2,
) -> str:
    """Return the sections as Markdown, with pictures where `picture` says how they are written.

    A table with a row of more than `width` characters loses its intervals. Titles have `level` hashes.
    """
    parts: list[str] = []
    for section in sections:
        written = [text for block in section.blocks if (text := _block_as_markdown(block, picture, width))]
        if written:
            parts += [f"{'#' * level} {section.title}", *written]
    return "\n\n".join(parts) + "\n"


def as_html(title: str, sections: Sequence[Section]) -> str:
    """Return the sections as one HTML page that needs nothing from elsewhere."""
    body = "\n".join(
        f"<h2>{escape(section.title)}</h2>\n" + "\n".join(map(_block_as_html, section.blocks)) for section in sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


def rows_of(table: Table) -> list[dict[str, str]]:
    """Return each row of a table by header, an interval as a column of its own."""
    found = []
    for number, name in enumerate(table.names):
        row = {table.corner: name}
        for group in table.groups:
            for header, cell in zip(group.header, group.rows[number], strict=True):
                row[header] = cell.text
                if any(cells[group.header.index(header)].interval for cells in group.rows):
                    row[f"{header}, 95%"] = cell.interval
        found.append(row)
    return found


def _block_as_markdown(block: Block, picture: Callable[[Picture], str] | None, width: int) -> str:
    match block:
        case Table():
            return "\n\n".join(_group_as_markdown(block, group, width) for group in block.groups)
        case Picture():
            return picture(block) if picture else ""
        case Lines():
            return "\n".join(f"- {line}" for line in block.lines)
        case Passage():
            fence = "`" * max(3, _longest_run(block.text, "`") + 1)
            return f"{fence}text\n{block.text}\n{fence}"
        case SideBySide():
            return ""


def _group_as_markdown(table: Table, group: Group, width: int) -> str:
    """Return the rows of a group in which there is anything."""
    header = [group.title or table.corner, *group.header]
    full, short = (
        [
            [name, *(cell.written(intervals) for cell in cells)]
            for name, cells in zip(table.names, group.rows, strict=True)
            if any(cell.text for cell in cells)
        ]
        for intervals in (True, False)
    )
    rows = full if all(len(" | ".join(row)) <= width for row in full) else short
    lines = [header, ["---"] + ["--:"] * len(group.header), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _longest_run(text: str, character: str) -> int:
    longest = current = 0
    for found in text:
        current = current + 1 if found == character else 0
        longest = max(longest, current)
    return longest


def _block_as_html(block: Block) -> str:
    match block:
        case Table():
            return _table_as_html(block)
        case Picture():
            source = base64.b64encode(block.png).decode()
            return f'<img src="data:image/png;base64,{source}" alt="{escape(block.title)}">'
        case Lines():
            return "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in block.lines) + "</ul>"
        case Passage():
            return f"<pre>{escape(block.text)}</pre>"
        case SideBySide():
            columns = "\n".join(
                f"<div><h3>{escape(title)}</h3><p>{escape(text)}</p><small>{escape(note)}</small></div>"
                for title, text, note in block.columns
            )
            return f'<section><pre>{escape(block.passage)}</pre>\n<div class="side">\n{columns}\n</div></section>'


def _table_as_html(table: Table) -> str:
    groups = "".join(f'<th colspan="{len(group.header)}">{escape(group.title)}</th>' for group in table.groups)
    top = f"<tr><th></th>{groups}</tr>\n" if any(group.title for group in table.groups) else ""
    titles = [
        f"<th{_first(place)}>{escape(title)}</th>" for group in table.groups for place, title in enumerate(group.header)
    ]
    rows = []
    for number, name in enumerate(table.names):
        cells = [
            f"<td{_first(place)}>{escape(cell.text)}{_small(cell.interval)}</td>"
            for group in table.groups
            for place, cell in enumerate(group.rows[number])
        ]
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>\n")
    head = f"{top}<tr><th>{escape(table.corner)}</th>{''.join(titles)}</tr>"
    return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table></div>'


def _first(place: int) -> str:
    return "" if place else ' class="first"'


def _small(interval: str) -> str:
    return f"<small>{escape(interval)}</small>" if interval else ""


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: .85rem; margin: 0; opacity: .7; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin: .6rem 0 1.2rem; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
tbody th, th:first-child { text-align: left; position: sticky; left: 0; background: Canvas; white-space: nowrap; }
thead th { vertical-align: bottom; font-weight: 600; }
thead th[colspan] { text-align: left; border-left: 1px solid var(--line); opacity: .7; }
.first { border-left: 1px solid var(--line); }
td small { display: block; opacity: .65; font-size: .78em; }
img { display: block; max-width: 100%; margin: 1rem 0; background: white; border-radius: 6px; }
pre, .side p { white-space: pre-wrap; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 6px; }
section { margin: 1.5rem 0 2.5rem; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; }
.side p { margin: .2rem 0 .4rem; }
"""
