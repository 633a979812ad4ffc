"""`homegrown runs`: the list of runs."""

import click

from homegrown.store.artifacts import Store


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.pass_obj
def runs(store: Store, as_json: bool) -> None:
    """List all runs, the oldest first.

    Shows the state, bits per byte, and the settings that differ from the recipe in pipelines.yaml. With several people,
    it also shows the author.
    """
    import json

    from homegrown.comparison.history import history
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    listed = history(store)
    if as_json:
        click.echo(json.dumps([past.as_json() for past in listed], indent=2))
        return
    several = len({past.author for past in listed} - {None}) > 1
    rows = [
        [
            past.name,
            past.recipe,
            *([past.author or ""] if several else []),
            f"{past.started:%Y-%m-%d %H:%M}",
            f"{past.state}, {past.last}" if past.last else past.state,
            past.headline,
            "not in pipelines.yaml" if past.changed is None else past.changes,
        ]
        for past in listed
    ]
    shown = ["state, last stage", "bits/byte", "changed settings"]
    header = ["run", "recipe", *(["author"] if several else []), "started (UTC)", *shown]
    print_table(Table(header, rows, align="l" * len(header)))
