"""Files and folders that a command is asked to write: that it can is seen before it works, not after."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from homegrown.util.errors import UserError
from homegrown.util.files import replacing


class Out(click.Path):
    """The path of a file, or with `folder` of a new folder, that is to be written."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; fails where it names nothing, or nothing can be written."""
        if not os.fspath(value):
            self.fail("it is empty; name what is to be written.", param, ctx)
        path = Path(str(super().convert(value, param, ctx)))
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            self.fail(f"{above} is no folder; name another place.", param, ctx)
        if not os.access(above, os.W_OK | os.X_OK):
            self.fail(f"nothing may be written in {above}; name another place.", param, ctx)
        return path


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes `out` at the end; raises UserError where it cannot be written."""
    try:
        with replacing(out) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another place after --out.") from error


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under a header, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
