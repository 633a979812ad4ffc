"""Tables in the terminal, where nothing is cut, and in a pipe or a file, where every row is one plain line."""

import re
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from homegrown.reporting.blocks import Cell, Table

_GAP = 2
_LONGEST_WORD = 32
"""Characters of a word that does not fold; a longer one, such as a path, does."""

_SIDES: dict[str, Literal["left", "right"]] = {"l": "left", "r": "right"}
_STYLES = {"better": "cyan", "worse": "yellow", "": ""}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def print_table(table: Table) -> None:
    """Print a table with its title and notes.

    In a terminal, names fold and figures do not; if even so it is too wide, each row becomes a list of its cells.
    Elsewhere, a row is one line, columns are at least two spaces apart, and nothing is colored.
    """
    console = Console(highlight=False)
    in_terminal = console.is_terminal
    if table.title:
        console.print(Text(table.title, style="bold" if in_terminal else ""), soft_wrap=not in_terminal)
    if table.rows and not in_terminal:
        _print_lines(table)
    elif table.rows and (widths := _fitting(table, console.width)):
        console.print(_folded(table, widths))
    elif table.rows:
        _print_records(console, table)
    for note in table.notes:
        console.print(Text(note), soft_wrap=not in_terminal)


def _folded(table: Table, widths: Sequence[int]) -> RichTable:
    # The box has a space between columns.
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for title, side, width in zip(table.header, table.alignment, widths, strict=True):
        shown.add_column(title, justify=_SIDES[side], overflow="fold", width=width)
    for row in table.cells:
        shown.add_row(*(_text(cell, in_one_line=False) for cell in row))
    return shown


def _fitting(table: Table, width: int) -> list[int] | None:
    """Return the width of each column so that all fit; None if words would have to be cut."""
    columns = [[title, *cells] for title, *cells in zip(table.header, *_lines(table), strict=True)]
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
    shown = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for title, side in zip(table.header, table.alignment, strict=True):
        shown.add_column(title, justify=_SIDES[side], no_wrap=True)
    for row in table.cells:
        shown.add_row(*map(_text, row))
    console = Console(width=sys.maxsize, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _print_records(console: Console, table: Table) -> None:
    width = max(map(cell_len, table.header[1:]), default=0)
    for first, *others in table.cells:
        console.print(_text(first), style="bold")
        cells = RichTable.grid("", "", padding=(0, _GAP))
        cells.columns[0].min_width = width
        cells.columns[1].overflow = "fold"
        for title, cell in zip(table.header[1:], others, strict=True):
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
