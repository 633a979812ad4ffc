"""Datasets of the Hugging Face hub, or local folders that `datasets` can load, streamed in Arrow batches.

The address of the hub is that of `HF_ENDPOINT`, the token that of `HF_TOKEN`; a recipe has neither.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from homegrown.config.corpus import HubSource
from homegrown.corpus.readers.tables import column_of, column_problem, text_row, texts, urls
from homegrown.corpus.records import Document, Fault, Piece
from homegrown.corpus.streams import first_line
from homegrown.util.errors import UserError

if TYPE_CHECKING:  # every run imports this module, even if nothing is read
    import pyarrow as pa

Result = TypeVar("Result")

_ROWS = 256  # in a batch
_SHARD_BYTES = 64_000_000  # of a dataset on disk, the unit of parallel work and of resuming
_WAITS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)  # seconds, after the retries of huggingface_hub within half a minute
_LONGEST_WAIT = 3600.0  # seconds that a hub may ask for
_BUSY = (408, 425, 429)  # statuses after which the same request may succeed, besides those of 500 and above
_COMMIT = re.compile(r"[0-9a-f]{40}")


def local_folder(source: HubSource) -> Path | None:
    """Return the local folder of the source, None for a repository."""
    folder = Path(source.dataset).expanduser()
    return folder.resolve() if folder.is_dir() else None


def pieces(source: HubSource) -> list[Piece]:
    """Return one piece per file of the dataset's split, as `datasets` counts them; raise UserError.

    Parquet files of a repository have their address and path there; a worker asks the hub for nothing else.
    """
    files = [] if local_folder(source) else _parquet_files(source)
    if files:
        return [Piece(file, file.partition("@")[2].partition("/")[2], number, len(files)) for number, file in files]
    count = _open(source).num_shards
    return [Piece(source.dataset, f"{source.split}/{number:05d}", number, count) for number in range(count)]


def read(source: HubSource, piece: Piece) -> Iterator[Document | Fault]:
    """Yield the rows of one piece; raise UserError if the column is missing or the hub stops answering.

    After a lost connection the piece is opened again, at the first row that was not read.
    """
    number = 0
    waits = iter(_WAITS)
    while True:
        before = number
        try:
            for table in _tables(source, piece, number):
                values = texts(column_of(table, source.text_column).combine_chunks())
                for text, url in zip(values, urls(table, source.url_column), strict=True):
                    number += 1
                    yield text_row(piece.locator, text, source.text_column, number, url)
            return
        except UserError:
            raise
        except Exception as error:  # datasets passes on the errors of its HTTP clients and file formats
            waits = iter(_WAITS) if number > before else waits
            if not _wait(error, waits):
                where = f"{source.dataset}, {piece.locator}"
                raise UserError(
                    f"Dataset {where} cannot be read from row {number + 1} on: {first_line(error)}"
                ) from error


def commit(source: HubSource) -> str:
    """Return the commit of the revision, or the revision as set if the hub does not answer; raise UserError."""
    try:
        return pinned(source).revision or ""
    except UserError as error:
        if isinstance(error.__cause__, Exception) and _status(error.__cause__) is None:  # offline; reading reports more
            return source.revision or ""
        raise


def pinned(source: HubSource) -> HubSource:
    """Return a source of a repository with the commit of its revision at this moment; raise UserError."""
    if local_folder(source) or _COMMIT.fullmatch(source.revision or ""):
        return source
    from huggingface_hub import HfApi

    def ask() -> str | None:
        return HfApi(token=_token()).dataset_info(source.dataset, revision=source.revision, timeout=10).sha

    found = _retried(ask, source)
    return source.model_copy(update={"revision": found})


def _token() -> str | bool:
    """Return the token of the environment; False: none, and not that of a login on this machine either."""
    return os.environ.get("HF_TOKEN") or False


def _parquet_files(source: HubSource) -> list[tuple[int, str]]:
    """Return the addresses of the split's files with their numbers; nothing if not all of them are Parquet."""
    import datasets

    def ask() -> Any:
        return datasets.load_dataset_builder(
            source.dataset, name=source.config, revision=source.revision, token=_token()
        )

    files = [str(file) for file in (_retried(ask, source).config.data_files or {}).get(source.split, [])]
    if not all(re.fullmatch(r"hf://datasets/.+@[^/]+/.+\.parquet", file) for file in files):
        return []
    return list(enumerate(files))


def _tables(source: HubSource, piece: Piece, first: int) -> "Iterator[pa.Table]":
    """Yield the rows of a piece from `first` on; raise UserError if the column is missing."""
    if piece.address.startswith("hf://"):
        import datasets

        dataset = datasets.load_dataset(
            "parquet",
            data_files=[piece.address],
            split="train",
            streaming=True,
            token=_token(),
            batch_size=_ROWS,  # by default that of the first row group, which fails on a file without rows
        )
    else:
        dataset = _open(source).shard(num_shards=piece.stop, index=piece.start)
    place = 0
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS):
        if not place and (problem := column_problem(source.dataset, table.schema, source.text_column)):
            raise UserError(problem)
        place += len(table)
        if place > first:
            yield table.slice(max(0, first - (place - len(table))))


def _open(source: HubSource) -> Any:
    """Return the dataset's split as an iterable dataset; a single split saved by `save_to_disk` is that split."""
    import datasets

    folder = local_folder(source)

    def load() -> Any:
        if folder and _is_saved(folder):
            return _iterable(datasets.load_from_disk(str(folder)), source.split)
        return datasets.load_dataset(
            str(folder) if folder else source.dataset,
            name=source.config,
            split=source.split,
            revision=None if folder else source.revision,
            streaming=True,
            token=_token(),
        )

    return _retried(load, source)


def _retried(call: Callable[[], Result], source: HubSource) -> Result:
    """Return what a call returns, tried again while the hub is busy; raise UserError."""
    waits = iter(_WAITS)
    while True:
        try:
            return call()
        except Exception as error:  # as in `read`
            if _status(error) is not None and _wait(error, waits):
                continue
            if type(error).__name__ == "RevisionNotFoundError":
                raise UserError(
                    f"Dataset {source.dataset} has no revision {source.revision!r}; name a branch, tag or commit."
                ) from error
            if _is_gated(error):
                raise UserError(
                    f"Dataset {source.dataset} is gated; accept its terms on the hub, and set HF_TOKEN."
                ) from error
            raise UserError(f"Dataset {source.dataset} cannot be opened: {first_line(error)}") from error


def _wait(error: Exception, waits: Iterator[float]) -> bool:
    """Wait for the time that the hub names, or longer each time; return False for an error that would repeat."""
    status = _status(error)
    if status is None:
        passing = isinstance(error, OSError | EOFError) and not isinstance(error, FileNotFoundError | PermissionError)
        passing = passing or type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "aiohttp", "requests")
    else:
        passing = status in _BUSY or status >= 500
    seconds = next(waits, None)
    if not passing or seconds is None:
        return False
    asked = _retry_after(getattr(getattr(error, "response", None), "headers", {}))
    if asked > _LONGEST_WAIT:
        return False
    time.sleep(max(seconds, asked))
    return True


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer asks to wait, as a number or until a date; 0 without."""
    value = str(headers.get("Retry-After", ""))
    if value.isdecimal():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # TypeError: without a time zone
        return 0.0


def _status(error: BaseException | None) -> int | None:
    """Return the status of the answer that an error, or its cause, comes from; None: there was no answer."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _is_gated(error: Exception) -> bool:
    return _status(error) in (401, 403) or "gated dataset" in str(error)


def _is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` of a dataset or of a dictionary of splits wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _iterable(dataset: Any, split: str) -> Any:
    if isinstance(dataset, dict):
        if split not in dataset:
            raise ValueError(f"it has no split {split!r}, only {', '.join(dataset)}")
        dataset = dataset[split]
    size = sum(Path(file["filename"]).stat().st_size for file in dataset.cache_files)
    return dataset.to_iterable_dataset(num_shards=max(1, min(len(dataset), size // _SHARD_BYTES)))
