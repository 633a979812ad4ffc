"""The page of an artifact in the Prefect UI, and its excerpt for the summary of a run."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from homegrown.reporting.numbers import duration, file_size, quantity, shown
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.util.elsewhere import opened, parts_of
from homegrown.util.files import replacing
from homegrown.util.progress import Metric
from tasks.ui.figures import figure
from tasks.ui.markdown import table

PAGE = "page.json"
"""The rendered page; in the artifact's folder, and deleted with it."""

PARTS_READ = 8
"""Shards of a table that a page reads: enough for examples, and bounded for a large corpus."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Panel:
    """What a stage's page shows besides its figures."""

    report: Callable[[Artifact], str]
    """The page of a finished artifact."""
    excerpt: Callable[[Artifact], str] | None = None
    """Its excerpt for the summary of a run."""
    live: Callable[[Path], str | None] | None = None
    """The live page from the partial folder, posted while the stage runs; None if there is nothing yet."""
    rows: Callable[[Artifact], list[dict[str, str]]] | None = None
    """A table posted besides the page: rows by column, with the same columns in each."""


class Page(BaseModel):
    """A stage's page and excerpt as markdown, and its table."""

    report: str
    excerpt: str
    rows: list[dict[str, str]] = []


def page(artifact: Artifact, panel: Panel | None) -> Page:
    """Return an artifact's page; a cached page is used unless the code of the UI has changed since."""
    cached = artifact.path / PAGE
    try:
        if cached.stat().st_mtime > _code_changed():
            return Page.model_validate_json(cached.read_bytes())
    except (OSError, ValidationError):
        pass  # not rendered yet, or damaged
    parts = [panel.report(artifact)] if panel else []
    rendered = Page(
        report="\n\n".join([*parts, "### Figures", figures(artifact)]),
        excerpt=panel.excerpt(artifact) if panel and panel.excerpt else "",
        rows=panel.rows(artifact) if panel and panel.rows else [],
    )
    try:
        with replacing(cached) as temporary:
            temporary.write_text(rendered.model_dump_json(), encoding="utf-8")
    except OSError as error:
        _log.debug("Could not cache the page of %s: %s", artifact.name, error)
    return rendered


def _code_changed() -> float:
    return max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))


def figures(artifact: Artifact) -> str:
    """Return the figures of the manifest as a table."""
    manifest = artifact.manifest
    made_from = ", ".join(one.name for one in Store(artifact.path.parents[1]).inputs(artifact))
    rows = {
        "in": shown(manifest.rows_in),  # often in another unit
        "out": quantity(manifest.rows_out, manifest.unit),
        **({"made from": made_from} if made_from else {}),
        "duration": duration(manifest.seconds),
        "size": file_size(manifest.bytes),
        **{_words(name): figure(name, value) for name, value in manifest.metrics.items()},
        "key": f"`{manifest.key[:16]}`",
    }
    return table(["", artifact.name], list(rows.items()))


def _words(name: str) -> str:
    """Return a metric's name as words; names of variants, such as q8_0, stay unchanged."""
    return re.sub(r"\bmb$", "MB", re.sub(r"(?<!\d)_|_(?!\d)", " ", name))


def unsegmented(metrics: dict[str, Metric]) -> list[str]:
    """Return a note if the segmenter was missing."""
    from homegrown.corpus.segmenter import MISSING

    return [f"{metrics['unsegmented']} {MISSING}"] if "unsegmented" in metrics else []


def rows_of(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first shards of a table (`PARTS_READ`)."""
    import pyarrow.parquet as pq

    for part in parts_of(folder)[:PARTS_READ]:
        # `read_table` would import pandas if it is installed.
        yield from pq.ParquetFile(opened(part)).read(columns).to_pylist()


def partly(folder: Path) -> str:
    """Return a note if `rows_of` does not read all shards of the table."""
    parts = len(parts_of(folder))
    return f" (of the first {PARTS_READ} of {parts:,} shards)" if parts > PARTS_READ else ""
