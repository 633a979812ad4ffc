"""`homegrown sql`: DuckDB over views of every artifact."""

import sys

import click

from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("statement")
@click.option("--rows", default=40, show_default=True, type=click.IntRange(min=1), help="Most rows to print.")
@click.option("--csv", "as_csv", is_flag=True, help="Print all rows as CSV.")
@click.pass_obj
def sql(store: Store, statement: str, rows: int, as_csv: bool) -> None:
    """Run SQL (DuckDB) over views of every artifact.

    `dedup.dropped` is a table of the latest dedup, `"dedup@3".dropped` of its version 3; `artifacts`, `files`, `runs`
    and `SHOW ALL TABLES` say what is there. `documents`, `dropped` (of every stage, with `stage` and `reason`),
    `quarantine` and `shards` (with `split`) are of the latest corpus.

    What is like a document, by the signatures that dedup keeps:

    \b
      SELECT other.id, similarity(one.signature, other.signature) AS jaccard
      FROM dedup.signatures one, dedup.signatures other
      WHERE one.id = '...' ORDER BY jaccard DESC LIMIT 10
    """
    if not statement.strip():
        raise UserError("The statement is empty; try 'SHOW ALL TABLES'.")
    from homegrown.store import catalog

    with catalog.connect(store) as connection:
        if as_csv:
            catalog.write_csv(connection, statement, sys.stdout)
        else:
            click.echo(catalog.show(connection, statement, rows), nl=False)
