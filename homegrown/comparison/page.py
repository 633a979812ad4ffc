"""A comparison as an HTML report, and as a picture."""

from pathlib import Path

from homegrown.comparison.chart import draw
from homegrown.comparison.compare import Comparison
from homegrown.comparison.tables import tables
from homegrown.reporting.blocks import Block, Paragraph, Picture, Section, Table
from homegrown.reporting.html import as_html
from homegrown.util.errors import UserError

_KINDS = (".html", ".png")


def html(comparison: Comparison) -> str:
    """Return the page: the chart, then every table."""
    drawn = draw(comparison)
    first, *others = map(_section, tables(comparison, intervals=True))
    title = "Losses and main metrics"
    chart = [Section(title, [Picture(drawn, f"{title} of the runs, as in the tables")])] if drawn else []
    return as_html("Comparison of runs", [first, *chart, *others])


def _section(table: Table) -> Section:
    blocks: list[Block] = [Table(table.header, table.rows, table.align)] if table.rows else []
    return Section(table.title, [*blocks, *map(Paragraph, table.notes)])


def kind_of(out: Path) -> str:
    """Return the suffix of the file's name; raises UserError if it is neither .html nor .png."""
    if out.suffix.lower() not in _KINDS:
        raise UserError(f"{out} is neither a page nor a picture; choose a name that ends in .html or .png.")
    return out.suffix.lower()


def render(comparison: Comparison, out: Path) -> bytes:
    """Return the content of the page or the picture `out`.

    Raises:
        UserError: the suffix is unknown, or there is nothing to draw.
    """
    content = html(comparison).encode() if kind_of(out) == ".html" else draw(comparison)
    if content is None:
        raise UserError("The runs share no training curve and no metric; write their tables with --out NAME.html.")
    return content
