"""`homegrown sql`: DuckDB over views of every artifact."""

import re
import sys
from typing import TYPE_CHECKING

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    import duckdb

_MOST_ROWS, _MOST_CHARACTERS = 40, 300  # in a terminal, the latter of a cell


@click.command()
@click.argument("statement")
@click.option("--csv", "as_csv", is_flag=True, help="CSV output of all rows.")
@click.pass_obj
def sql(store: Store, statement: str, as_csv: bool) -> None:
    """Query the artifacts in SQL (DuckDB).

    A terminal shows the first 40 rows, a file or a pipe gets all.

    `dedup.dropped` is a table of the latest dedup, `"dedup@3".dropped` of its version 3; `artifacts`, `files`, `runs`
    and `SHOW ALL TABLES` list what exists. `documents`, `dropped` (of every stage, with `stage` and `reason`),
    `quarantine` and `shards` (with `split`) belong to the latest corpus. `ratings` has the answers to `homegrown
    rate`, `feedback` the pairs of `homegrown feedback`.

    Documents similar to one, by the signatures of dedup:

    \b
      SELECT other.id, similarity(one.signature, other.signature) AS jaccard
      FROM dedup.signatures one, dedup.signatures other
      WHERE one.id = '...' ORDER BY jaccard DESC LIMIT 10
    """
    if not statement.strip():
        raise UserError("The statement is empty; try 'SHOW ALL TABLES'.")
    from homegrown.reporting.terminal import print_table
    from homegrown.store import catalog

    with catalog.connect(store, statement=statement) as connection:
        # Only if it is meant: reading it decides which new pairs are held out.
        if re.search(r"\b(feedback|tables)\b", statement, re.IGNORECASE):
            _add_feedback(connection, store)
        if as_csv:
            catalog.write_csv(connection, statement, sys.stdout)
        else:
            table = catalog.table_of(connection, statement, _MOST_ROWS if sys.stdout.isatty() else None)
            if table:
                print_table(table, most=_MOST_CHARACTERS)


def _add_feedback(connection: "duckdb.DuckDBPyConnection", store: Store) -> None:
    """Add the view `feedback`: a row for each pair."""
    import pyarrow as pa

    from homegrown.rating.feedback import PAIRS, Feedback

    rows = [pair.row() for pair in Feedback(store).pairs().pairs]
    connection.register("feedback", pa.Table.from_pylist(rows, schema=PAIRS))
