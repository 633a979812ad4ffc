"""`homegrown compare`: runs side by side."""

from pathlib import Path

import click

from homegrown.cli.options.output import Out
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON, with what is equal too.")
@click.option("--out", type=Out(), help="Page (.html) or picture (.png) to write besides.")
@click.pass_obj
def compare(store: Store, names: tuple[str, ...], as_json: bool, out: Path | None) -> None:
    """Say what differs between runs, the first of which is the base: settings, stages, and what it did to each metric.

    A RUN is a name of `homegrown runs`, the start of one, `latest`, `tiny@-2` (the last but one of the recipe `tiny`),
    or the name of a sweep, which means all its runs.
    """
    import json

    from homegrown.comparison.compare import compare as compared
    from homegrown.comparison.page import kind_of, write
    from homegrown.comparison.tables import tables
    from homegrown.comparison.terminal import print_tables
    from homegrown.store import runs
    from homegrown.store.run_names import find_runs

    if out:
        kind_of(out)
    records = runs.recorded(store)
    found = find_runs(records, names)
    if len(found) < 2:
        raise UserError(f"{' and '.join(names)} is one run, {found[0]}; name another to compare it with.")
    comparison = compared(store, records, found)
    if as_json:
        click.echo(json.dumps(comparison.as_json(), indent=2))
    else:
        print_tables(tables(comparison))
    if out:
        write(comparison, out)
        click.echo(f"Written: {out}", err=as_json)
