"""Markdown for the Prefect UI, where table cells do not wrap, pictures must be inline and HTML stays text."""

import base64
import textwrap
from collections.abc import Sequence
from urllib.parse import urlsplit

from prefect.settings import get_current_settings

from homegrown.reporting.blocks import Table, fenced, longest_run, table_as_markdown

_COLUMNS = 92  # of code that fit the UI's page in a common window
_broken = textwrap.TextWrapper(_COLUMNS, replace_whitespace=False, drop_whitespace=False, expand_tabs=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table whose first `left` columns are left-aligned, the others right-aligned."""
    return table_as_markdown(Table(header, rows, align="l" * left + "r" * (len(header) - left)))


def picture(png: bytes, title: str) -> str:
    """Return an inline PNG; the UI shows neither paths nor SVG."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def quoted(text: str) -> str:
    """Return text as a literal block; only lines longer than the page are wrapped."""
    lines = [part for line in text.splitlines() for part in _broken.wrap(line) or [""]]
    return fenced("\n".join(lines))


def code(text: str) -> str:
    """Return text as literal inline code; no address becomes a link or a picture."""
    mark = "`" * (longest_run(text, "`") + 1)
    return f"{mark} {' '.join(text.split())} {mark}"


def link(text: str, path: str) -> str:
    """Return a link to a page of the same UI, relative to the host."""
    return f"[{text}]({urlsplit(address(path)).path})"


def address(path: str) -> str:
    """Return the address of a page of the UI; on Prefect Cloud its path starts with account and workspace."""
    return f"{(get_current_settings().ui_url or '').rstrip('/')}{path}"
