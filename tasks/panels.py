"""What the Prefect UI shows of an artifact: a summary of every stage, and pictures and tables of some."""

import base64
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from homegrown.artifacts import Artifact
from homegrown.files import read_parquet
from tasks.figures import duration, figure, shown

_log = logging.getLogger(__name__)
_DELIVERY_SECONDS = 10

# A stage need not wait for the server to take what it shows, so one thread posts for all of them, in their order.
_thread = ThreadPoolExecutor(1, thread_name_prefix="panels")
_posting: list[Future[None]] = []


@dataclass(frozen=True)
class Panel:
    """What a stage shows besides its summary."""

    markdown: Callable[[Path], str | None] | None = None
    """Of the finished artifact's folder."""
    live: Callable[[Path], str | None] | None = None
    """Of the partial folder, now and then while the stage works; None while there is nothing to see."""
    table: Callable[[Path], list[dict[str, Any]]] | None = None
    """Rows of the finished artifact's main table."""


def post(artifact: Artifact, panel: Panel | None) -> None:
    """Post an artifact's summary and panel to the UI; a server that is away is logged and never fails a stage."""
    stage = artifact.manifest.stage
    try:
        create_table_artifact(_summary(artifact), f"{stage}-summary", f"{artifact.name} in `{artifact.path}`")
        if panel and panel.table:
            create_table_artifact(panel.table(artifact.path), f"{stage}-table", f"{artifact.name}, the table")
        if panel and panel.markdown and (markdown := panel.markdown(artifact.path)):
            create_markdown_artifact(markdown, f"{stage}-report", f"{artifact.name}, the report")
    except Exception as error:
        _log.warning("what %s made could not be shown in the UI: %s", stage, error)


def post_soon(artifact: Artifact, panel: Panel | None) -> None:
    """Have an artifact's summary and panel posted while the run goes on; `deliver` waits for it."""
    context = contextvars.copy_context()  # it carries the task run, to which Prefect ties what is posted
    _posting.append(_thread.submit(context.run, post, artifact, panel))


def deliver() -> None:
    """Wait until all is posted, but not long for a server that is away."""
    wait(_posting, timeout=_DELIVERY_SECONDS)
    _posting.clear()


def picture(file: Path, title: str) -> str:
    """Return a PNG file as markdown with the picture inside: the UI shows neither paths nor SVG."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


def parquet_rows(table: str) -> Callable[[Path], list[dict[str, Any]]]:
    """Return a function that reads the table of this name, a folder of Parquet shards, out of an artifact."""

    def read(folder: Path) -> list[dict[str, Any]]:
        rows = read_parquet(folder / table).to_pylist()
        return [
            {name.replace("_", " "): "" if value is None else shown(value) for name, value in row.items()}
            for row in rows
        ]

    return read


def _summary(artifact: Artifact) -> list[dict[str, Any]]:
    manifest = artifact.manifest
    figures = {
        f"{manifest.unit} in": shown(manifest.rows_in),
        f"{manifest.unit} out": shown(manifest.rows_out),
        "time": duration(manifest.seconds),
        "size": f"{manifest.bytes / 1e6:,.1f} MB",
        **{name.replace("_", " "): figure(name, value) for name, value in manifest.metrics.items()},
        "key": manifest.key[:16],
    }
    return [{"": name, artifact.name: value} for name, value in figures.items()]
