"""A comparison's tables in the terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from homegrown.comparison.tables import Table

_COLOURS = {"better": "green", "worse": "red", "": ""}
_WIDE = 200


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables one below the other; in a file or a pipe, lines may be long instead of folded."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _WIDE))
    for table in tables:
        console.print(Text(table.title, style="bold"))
        if table.rows:
            console.print(_rich(table))
        for note in table.notes:
            console.print(Text(note), soft_wrap=True)
        console.print()


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(table.header):
        shown.add_column(title, justify="left" if number < table.names else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=_COLOURS[cell.verdict]) for cell in row))
    return shown
