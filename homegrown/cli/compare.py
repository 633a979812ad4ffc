"""`homegrown compare`: runs side by side."""

from pathlib import Path

import click

from homegrown.cli.options.output import Out, written
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError


@click.command()
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="JSON output, with equal metrics too.")
@click.option("--out", type=Out(), help="Report (.html) or chart (.png) to write besides.")
@click.pass_obj
def compare(store: Store, names: tuple[str, ...], as_json: bool, out: Path | None) -> None:
    """Compare runs: settings, stages and metrics.

    The first RUN is the base. A RUN is a name or its start as in `homegrown runs`, `latest`, `tiny@-2` (the last but
    one of the recipe `tiny`), or a sweep, which means all its runs.
    """
    import json

    from homegrown.comparison.compare import compare as compared
    from homegrown.comparison.page import kind_of, render
    from homegrown.comparison.tables import tables
    from homegrown.reporting.terminal import print_table
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
        for number, table in enumerate(tables(comparison)):
            if number:
                click.echo()
            print_table(table)
    if out:
        content = render(comparison, out)
        with written(out) as temporary:
            temporary.write_bytes(content)
        click.echo(f"Written: {out}", err=as_json)
