"""Tables in the terminal, where nothing is cut, and in a pipe or a file, where every row is one plain line."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from homegrown.reporting.blocks import Cell, Table
from homegrown.reporting.numbers import quantity

_GAP = 2
_LONGEST_WORD = 32
"""Characters of a word that does not fold; a longer one, such as a path, does."""

_SIDES: dict[str, Literal["left", "right"]] = {"l": "left", "r": "right"}
_STYLES = {"better": "cyan", "worse": "yellow", "": ""}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def print_table(table: Table, *, most: int | None = None) -> None:
    """Print a table with its title and notes.

    In a terminal, names fold and figures do not; if even so it is too wide, each row becomes a list of its cells.
    Cells are cut to `most` characters, which a note says. Elsewhere, a row is one complete line, columns are at least
    two spaces apart, and nothing is colored.
    """
    console = Console(highlight=False)
    in_terminal = console.is_terminal
    if in_terminal and most:
        table = _cut(table, most)
    if table.title:
        console.print(Text(table.title, style="bold" if in_terminal else ""), soft_wrap=not in_terminal)
    shows_rows = bool(table.rows) or not table.notes  # a note can explain the missing rows
    if shows_rows and not in_terminal:
        _print_lines(table)
    elif shows_rows and (widths := _fitting(table, console.width)):
        console.print(_folded(table, widths))
    elif shows_rows:
        _print_records(console, table)
    for note in table.notes:
        console.print(Text(note), soft_wrap=not in_terminal)


def _cut(table: Table, most: int) -> Table:
    cut = sum(len(cell.text) > most for row in table.cells for cell in row)
    if not cut:
        return table
    rows = [
        [replace(cell, text=f"{cell.text[:most]}…") if len(cell.text) > most else cell for cell in row]
        for row in table.cells
    ]
    note = f"{quantity(cut, 'cells')} of more than {most} characters cut; a file or a pipe gets everything."
    return replace(table, rows=rows, notes=[*table.notes, note])


def _folded(table: Table, widths: Sequence[int]) -> RichTable:
    header = any(table.header)
    # This box has a space between columns; without a header there is no box.
    frame, gap = (box.SIMPLE_HEAD, _GAP - 1) if header else (None, _GAP)
    shown = RichTable(box=frame, show_header=header, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for title, side, width in zip(table.header, table.alignment, widths, strict=True):
        shown.add_column(title, justify=_SIDES[side], overflow="fold", width=width)
    for row in table.cells:
        shown.add_row(*(_text(cell, in_one_line=False) for cell in row))
    return shown


def _fitting(table: Table, width: int) -> list[int] | None:
    """Return the width of each column so that all fit; None if words would have to be cut."""
    columns = [[*title.split("\n"), *cells] for title, *cells in zip(table.header, *_lines(table), strict=True)]
    full = [max(map(cell_len, lines)) for lines in columns]
    least = [
        all_of_it if side == "r" else min(all_of_it, max(map(_longest_word, lines)))
        for lines, side, all_of_it in zip(columns, table.alignment, full, strict=True)
    ]
    left = width - sum(least) - _GAP * (len(least) - 1)
    if left < 0:
        return None
    wanted = {place: one - other for place, (one, other) in enumerate(zip(full, least, strict=True)) if one > other}
    for number, place in enumerate(sorted(wanted, key=lambda place: wanted[place])):
        given = min(wanted[place], left // (len(wanted) - number))
        least[place] += given
        left -= given
    return least


def _lines(table: Table) -> list[list[str]]:
    """Return for each row and each line of its cells what is in the columns."""
    return [
        list(line)
        for row in table.cells
        for line in zip_longest(*(_text(cell, in_one_line=False).plain.split("\n") for cell in row), fillvalue="")
    ]


def _longest_word(text: str) -> int:
    return min(_LONGEST_WORD, max(map(cell_len, text.split()), default=0))


def _print_lines(table: Table) -> None:
    shown = RichTable(box=None, show_header=any(table.header), pad_edge=False, padding=(0, _GAP, 0, 0))
    for title, side in zip(table.header, table.alignment, strict=True):
        shown.add_column(title.replace("\n", " "), justify=_SIDES[side], no_wrap=True)
    for row in table.cells:
        shown.add_row(*map(_text, row))
    console = Console(width=sys.maxsize, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _print_records(console: Console, table: Table) -> None:
    header = [title.replace("\n", " ") for title in table.header]
    width = max(map(cell_len, header[1:]), default=0)
    for first, *others in table.cells:
        console.print(_text(first), style="bold")
        cells = RichTable.grid("", "", padding=(0, _GAP))
        cells.columns[0].min_width = width
        cells.columns[1].overflow = "fold"
        for title, cell in zip(header[1:], others, strict=True):
            if cell.text:
                cells.add_row(title, _text(cell))
        console.print(Padding.indent(cells, _GAP))


def _text(cell: Cell, *, in_one_line: bool = True) -> Text:
    """Return a cell in one line, or with its interval in a second one.

    Control characters, which could steer the terminal, become spaces.
    """
    text = _CONTROLS.sub(" ", cell.line(with_interval=in_one_line))
    if cell.interval and not in_one_line:
        text += f"\n{cell.interval}"
    return Text(text, style=_STYLES[cell.verdict])
