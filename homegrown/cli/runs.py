"""`homegrown runs`: every run, what it changed, how it came out."""

import click

from homegrown.cli.options.output import print_table
from homegrown.store.artifacts import Store


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_obj
def runs(store: Store, as_json: bool) -> None:
    """List every run, the oldest first: what it changed of its recipe in pipelines.yaml, and its bits per byte."""
    import json

    from homegrown.comparison.history import history

    listed = history(store)
    if as_json:
        click.echo(json.dumps([past.as_json() for past in listed], indent=2))
        return
    rows = [
        (
            past.name,
            past.recipe,
            f"{past.started:%Y-%m-%d %H:%M}",
            f"{past.state}, {past.last}" if past.last else past.state,
            past.headline,
            "not in pipelines.yaml" if past.changed is None else past.changes,
        )
        for past in listed
    ]
    print_table(("run", "recipe", "began (UTC)", "state, last stage", "bits/byte", "changed"), rows)
