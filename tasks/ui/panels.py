"""What the Prefect UI shows of an artifact: one page for each stage, and what the story of a run quotes of it."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from homegrown.reporting.numbers import duration, file_size, shown
from homegrown.store.artifacts import Artifact, Store
from homegrown.util.files import parquet_parts, replacing
from tasks.ui.figures import figure
from tasks.ui.markdown import table

PAGE = "page.json"
"""The page as it was drawn; lies in the artifact's folder, beside Prefect's record, and is gone when that is gone."""

PARTS_READ = 8
"""Shards of a table that a page looks into: enough for examples, and no more work for a large corpus."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Panel:
    """What a stage shows besides its figures."""

    report: Callable[[Artifact], str]
    """Everything there is to see of a finished artifact."""
    excerpt: Callable[[Artifact], str] | None = None
    """What the story of a run quotes of it."""
    live: Callable[[Path], str | None] | None = None
    """Of the partial folder, now and then while the stage works; None while there is nothing to see."""
    rows: Callable[[Artifact], list[dict[str, str]]] | None = None
    """What is posted as a table besides the page: rows by column, the same columns in each."""


class Page(BaseModel):
    """A stage's page and what the story of a run quotes of it, as markdown, and its table."""

    report: str
    excerpt: str
    rows: list[dict[str, str]] = []


def page(artifact: Artifact, panel: Panel | None) -> Page:
    """Return an artifact's page: the one drawn before, unless the code that draws has changed since."""
    kept = artifact.path / PAGE
    try:
        if kept.stat().st_mtime > _code_changed():
            return Page.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        pass  # not drawn yet, or not whole: it is drawn again
    parts = [panel.report(artifact)] if panel else []
    drawn = Page(
        report="\n\n".join([*parts, "### Figures", figures(artifact)]),
        excerpt=panel.excerpt(artifact) if panel and panel.excerpt else "",
        rows=panel.rows(artifact) if panel and panel.rows else [],
    )
    try:
        with replacing(kept) as temporary:
            temporary.write_text(drawn.model_dump_json(), encoding="utf-8")
    except OSError as error:
        _log.debug("the page of %s is not kept: %s", artifact.name, error)
    return drawn


def _code_changed() -> float:
    return max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))


def figures(artifact: Artifact) -> str:
    """Return all figures of the manifest as a table."""
    manifest = artifact.manifest
    made_from = ", ".join(one.name for one in Store(artifact.path.parents[1]).inputs(artifact))
    rows = {
        "in": shown(manifest.rows_in),  # often of another unit
        "out": f"{shown(manifest.rows_out)} {manifest.unit}",
        **({"made from": made_from} if made_from else {}),
        "time to make it": duration(manifest.seconds),
        "size": file_size(manifest.bytes),
        **{_words(name): figure(name, value) for name, value in manifest.metrics.items()},
        "key": f"`{manifest.key[:16]}`",
    }
    return table(["", artifact.name], list(rows.items()))


def _words(name: str) -> str:
    """Write a figure's name as words; names of variants, such as q8_0, stay as they are."""
    return re.sub(r"\bmb$", "MB", re.sub(r"(?<!\d)_|_(?!\d)", " ", name))


def rows_of(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table's first shards (`PARTS_READ`)."""
    import pyarrow.parquet as pq

    for part in parquet_parts(folder)[:PARTS_READ]:
        # `read_table` would import pandas where that is installed.
        yield from pq.ParquetFile(part).read(columns).to_pylist()


def partly(folder: Path) -> str:
    """Say of how many shards `rows_of` shows some, where it is not all."""
    parts = len(parquet_parts(folder))
    return f" (of the first {PARTS_READ} of {parts:,} shards)" if parts > PARTS_READ else ""
