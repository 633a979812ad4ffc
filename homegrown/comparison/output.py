"""A comparison as a file: a page or a picture, as its name says."""

from pathlib import Path

from homegrown.comparison.chart import draw
from homegrown.comparison.compare import Comparison
from homegrown.comparison.page import html
from homegrown.errors import UserError
from homegrown.files import replacing

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
