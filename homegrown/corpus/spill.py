"""DuckDB for what must be global, with a memory limit and a folder to spill to that is gone afterwards."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb


@contextmanager
def spilling(folder: Path, memory_gb: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to an empty database in `folder`, whatever a killed run has left there; remove it after."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    connection = duckdb.connect(str(folder / "spill.duckdb"))
    try:
        connection.execute(f"SET memory_limit = '{int(memory_gb * 1000)}MB'")
        connection.execute(f"SET temp_directory = '{str(folder / 'temporary').replace(chr(39), chr(39) * 2)}'")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(folder)
