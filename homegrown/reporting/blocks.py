"""What a report consists of, and the same as Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Verdict = Literal["better", "worse", ""]
MARKS: dict[Verdict, str] = {"better": "✓", "worse": "✗", "": ""}
"""Beside the colors, for those who do not see them."""


@dataclass(frozen=True)
class Cell:
    """A figure or a name in a table."""

    text: str
    interval: str = ""
    """The 95% confidence interval."""
    verdict: Verdict = ""
    bar: float | None = None
    """A share that a page shows as a bar."""
    note: str = ""
    """Small print after the text."""

    @classmethod
    def of(cls, cell: "str | Cell") -> "Cell":
        """Return the cell itself, or one of a text."""
        return cls(cell) if isinstance(cell, str) else cell

    def line(self, *, with_interval: bool = True) -> str:
        """Return everything in one line: a mark for the verdict, text, note and interval."""
        marked = f"{MARKS[self.verdict]} {self.text}" if self.verdict else self.text
        interval = f"({self.interval})" if with_interval and self.interval else ""
        return " ".join(filter(None, [marked, self.note, interval]))


@dataclass(frozen=True)
class Group:
    """Columns that belong together: their title, their headers, and their cells of every row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclass(frozen=True)
class Table:
    """Rows under a header; the terminal, Markdown and HTML show it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    align: str = ""
    """A letter for each column, `l` left or `r` right; by default the first is left and the others are right."""
    title: str = ""
    notes: Sequence[str] = ()
    spans: Sequence[tuple[str, int]] = ()
    """Titles above the columns after the first, each with its number of columns.

    Markdown, where cells do not wrap, shows a table for each.
    """

    @classmethod
    def grouped(cls, corner: str, names: Sequence[str], groups: Sequence[Group]) -> "Table":
        """Return a table of groups side by side, each row under a name."""
        return cls(
            [corner, *(title for group in groups for title in group.header)],
            [[name, *(cell for group in groups for cell in group.rows[place])] for place, name in enumerate(names)],
            spans=[(group.title, len(group.header)) for group in groups],
        )

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows."""
        return [[Cell.of(cell) for cell in row] for row in self.rows]

    @property
    def starts(self) -> list[int]:
        """The columns in which a span starts."""
        return [1 + sum(columns for _, columns in self.spans[:place]) for place in range(len(self.spans))]

    @property
    def alignment(self) -> str:
        """A letter for each column, `l` or `r`."""
        return self.align or "l" + "r" * (len(self.header) - 1)


@dataclass(frozen=True)
class Picture:
    """A PNG, and what it shows in words."""

    png: bytes
    title: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Lines:
    """A list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Passage:
    """Quoted text, with line breaks and spaces as they are, and a note on it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class SideBySide:
    """A passage, and several texts that could follow it: title, text and note of each. Markdown leaves it out."""

    passage: str
    columns: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Details:
    """A line of cells that opens: the first is a name, the others are figures. Markdown leaves it out."""

    summary: Sequence[str | Cell]
    blocks: Sequence["Block"]

    @property
    def cells(self) -> list[Cell]:
        """The line's cells."""
        return [Cell.of(cell) for cell in self.summary]


Block = Table | Picture | Paragraph | Lines | Passage | SideBySide | Details


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
    """Return the sections as Markdown, with pictures if `picture` says how to write one.

    A table with a row of more than `width` characters loses its intervals. Titles have `level` hashes.
    """
    parts: list[str] = []
    for section in sections:
        written = [text for block in section.blocks if (text := _block_as_markdown(block, picture, width))]
        if written:
            parts += [f"{'#' * level} {section.title}", *written]
    return "\n\n".join(parts) + "\n"


def rows_of(table: Table) -> list[dict[str, str]]:
    """Return each row of a table by header, an interval as a column of its own."""
    cells = table.cells
    intervals = [any(row[place].interval for row in cells) for place in range(len(table.header))]
    found = []
    for row in cells:
        of_row: dict[str, str] = {}
        for header, cell, has_interval in zip(table.header, row, intervals, strict=True):
            of_row[header] = cell.text
            if has_interval:
                of_row[f"{header}, 95%"] = cell.interval
        found.append(of_row)
    return found


def table_as_markdown(table: Table, width: int = 10_000) -> str:
    """Return a table as Markdown; without intervals if a row has more than `width` characters."""
    parts, cells, begin = [], table.cells, 1
    for title, columns in table.spans or [("", len(table.header) - 1)]:
        places = [0, *range(begin, begin + columns)]
        begin += columns
        header = [title or table.header[0], *(table.header[place] for place in places[1:])]
        rules = ["---" if table.alignment[place] == "l" else "---:" for place in places]
        # A group shows the rows of which it has a figure.
        chosen = [
            [row[place] for place in places]
            for row in cells
            if not table.spans or any(row[place].text for place in places[1:])
        ]
        full, short = ([[cell.line(with_interval=yes) for cell in row] for row in chosen] for yes in (True, False))
        rows = full if all(len(" | ".join(row)) <= width for row in full) else short
        parts.append("\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in [header, rules, *rows]))
    return "\n\n".join([*parts, *table.notes])


def fenced(text: str) -> str:
    """Return text as a code block of Markdown, whatever is in it."""
    fence = "`" * max(3, longest_run(text, "`") + 1)
    return f"{fence}text\n{text}\n{fence}"


def longest_run(text: str, character: str) -> int:
    """Return how often a character repeats at most without another between."""
    return max((len(list(run)) for found, run in groupby(text) if found == character), default=0)


def _block_as_markdown(block: Block, picture: Callable[[Picture], str] | None, width: int) -> str:
    match block:
        case Table():
            return table_as_markdown(block, width)
        case Picture():
            return picture(block) if picture else ""
        case Paragraph():
            return block.text
        case Lines():
            return "\n".join(f"- {line}" for line in block.lines)
        case Passage():
            return "\n\n".join(filter(None, [block.note, fenced(block.text)]))
        case SideBySide() | Details():
            return ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
