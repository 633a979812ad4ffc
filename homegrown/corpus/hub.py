"""Datasets of the Hugging Face hub, or local folders that `datasets` can load, streamed in Arrow batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homegrown.corpus.readers import check_column, text_row, texts
from homegrown.corpus.records import Document, Fault, Piece
from homegrown.errors import UserError
from homegrown.recipe import HubSource

_ROWS = 256  # in a batch


def local_folder(source: HubSource) -> Path | None:
    """Return the folder that the source names, if it is one on this machine."""
    folder = Path(source.dataset).expanduser()
    return folder.resolve() if folder.is_dir() else None


def pieces(source: HubSource) -> list[Piece]:
    """Return one piece for each file of the dataset's split, as `datasets` counts them; raise UserError."""
    count = _open(source).num_shards
    return [Piece(Path(source.dataset), f"{source.split}/{number:05d}", number, count) for number in range(count)]


def read(source: HubSource, piece: Piece) -> Iterator[Document | Fault]:
    """Yield the rows of one piece; raise UserError when the column is missing or the hub stops answering."""
    dataset = _open(source).shard(num_shards=piece.stop, index=piece.start)
    number = 0
    try:
        for table in dataset.with_format("arrow").iter(batch_size=_ROWS):
            if not number:
                check_column(source.dataset, table.schema, source.text_column)
            for text in texts(table[source.text_column].combine_chunks()):
                number += 1
                yield text_row(piece, text, source.text_column, number)
    except UserError:
        raise
    except Exception as error:  # datasets raises what its HTTP clients and file formats raise
        where = f"{source.dataset}, {piece.locator}"
        raise UserError(f"Dataset {where} cannot be read from row {number + 1} on: {_first_line(error)}") from error


def commit(source: HubSource) -> str:
    """Return the commit that the revision means now, or the revision as given when the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(source.dataset, revision=source.revision, timeout=10).sha or ""
    except Exception:  # offline, or any of its HTTP client's errors: reading says more
        return source.revision or ""


def _open(source: HubSource) -> Any:
    import datasets

    folder = local_folder(source)
    try:
        return datasets.load_dataset(
            str(folder) if folder else source.dataset,
            name=source.config,
            split=source.split,
            revision=None if folder else source.revision,
            streaming=True,
        )
    except Exception as error:  # as above
        raise UserError(f"Dataset {source.dataset} cannot be opened: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or error.__class__.__name__).split("\n")[0]
