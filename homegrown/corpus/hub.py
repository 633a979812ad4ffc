"""Datasets of the Hugging Face hub, or local folders that `datasets` can load, streamed in Arrow batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homegrown.config.recipe import HubSource
from homegrown.corpus.readers.tables import column_of, column_problem, text_row, texts
from homegrown.corpus.records import Document, Fault, Piece
from homegrown.corpus.streams import first_line
from homegrown.util.errors import UserError

_ROWS = 256  # in a batch
_SHARD_BYTES = 64_000_000  # of a dataset on disk, the unit of parallel work and of resuming


def local_folder(source: HubSource) -> Path | None:
    """Return the local folder of the source, None for a repository."""
    folder = Path(source.dataset).expanduser()
    return folder.resolve() if folder.is_dir() else None


def pieces(source: HubSource) -> list[Piece]:
    """Return one piece per file of the dataset's split, as `datasets` counts them; raise UserError."""
    count = _open(source).num_shards
    return [Piece(source.dataset, f"{source.split}/{number:05d}", number, count) for number in range(count)]


def read(source: HubSource, piece: Piece) -> Iterator[Document | Fault]:
    """Yield the rows of one piece; raise UserError if the column is missing or the hub stops answering."""
    dataset = _open(source).shard(num_shards=piece.stop, index=piece.start)
    number = 0
    try:
        for table in dataset.with_format("arrow").iter(batch_size=_ROWS):
            if not number:
                problem = column_problem(source.dataset, table.schema, source.text_column)
                if problem:
                    raise UserError(problem)
            for text in texts(column_of(table, source.text_column).combine_chunks()):
                number += 1
                yield text_row(piece.locator, text, source.text_column, number)
    except UserError:
        raise
    except Exception as error:  # datasets raises what its HTTP clients and file formats raise
        where = f"{source.dataset}, {piece.locator}"
        raise UserError(f"Dataset {where} cannot be read from row {number + 1} on: {first_line(error)}") from error


def commit(source: HubSource) -> str:
    """Return the commit of the revision, or the revision as set if the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(source.dataset, revision=source.revision, timeout=10).sha or ""
    except Exception:  # offline, or any error of its HTTP client; reading reports more
        return source.revision or ""


def _open(source: HubSource) -> Any:
    """Return the dataset's split as an iterable dataset; a single split saved by `save_to_disk` is that split."""
    import datasets

    folder = local_folder(source)
    try:
        if folder and _is_saved(folder):
            return _iterable(datasets.load_from_disk(str(folder)), source.split)
        return datasets.load_dataset(
            str(folder) if folder else source.dataset,
            name=source.config,
            split=source.split,
            revision=None if folder else source.revision,
            streaming=True,
        )
    except Exception as error:  # as above
        raise UserError(f"Dataset {source.dataset} cannot be opened: {first_line(error)}") from error


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
