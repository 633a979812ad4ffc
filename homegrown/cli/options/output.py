"""Files and folders that a command writes; a path that cannot be written is refused before the work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from homegrown.util.errors import UserError
from homegrown.util.files import replacing


class Out(click.Path):
    """The path of a file to write, or with `folder` of a new folder."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; fails if it is empty or cannot be written."""
        if not os.fspath(value):
            self.fail("it is empty; name a file.", param, ctx)
        path = Path(str(super().convert(value, param, ctx)))
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            self.fail(f"{above} is not a folder; choose another path.", param, ctx)
        if not os.access(above, os.W_OK | os.X_OK):
            self.fail(f"{above} is not writable; choose another path.", param, ctx)
        return path


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes `out` at the end; raises UserError if it cannot be written."""
    try:
        with replacing(out) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another path for --out.") from error
