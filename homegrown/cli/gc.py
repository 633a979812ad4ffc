"""`homegrown gc`: free what nothing needs."""

import click

from homegrown.cli.options.output import print_table
from homegrown.store.artifacts import Store


@click.command()
@click.option(
    "--keep-runs", default=5, show_default=True, type=click.IntRange(min=0), help="Runs of each recipe to keep."
)
@click.option("--keep", multiple=True, metavar="STAGE@VERSION", help="Artifact to keep with all that it was made from.")
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would be deleted.")
@click.pass_obj
def gc(store: Store, keep_runs: int, keep: tuple[str, ...], yes: bool) -> None:
    """Free what no recent run and no kept artifact stands on.

    Kept are the last runs of each recipe (a whole sweep counts as one), the last artifact of each recipe and stage, and
    everything that a run which goes on just now needs. What an interrupted run of these began is kept for it.
    """
    from homegrown.store import garbage, runs

    if yes:
        deleted, left = garbage.collect(store, keep_runs, list(keep))
        freed = sum(item.bytes for item in deleted) / 1e6
        click.echo(f"Deleted {len(deleted)} folders, {freed:,.1f} MB.")
        for item in left:
            click.echo(f"Left, because somebody works in it: {item.path.relative_to(store.root)}")
        return
    found = garbage.garbage(store, keep_runs, list(keep))
    if found:
        rows = [(str(one.path.relative_to(store.root)), f"{one.bytes / 1e6:,.1f} MB", one.reason) for one in found]
        print_table(("folder", "size", "why"), rows)
        total = sum(one.bytes for one in found) / 1e6
        click.echo(f"{len(found)} folders, {total:,.1f} MB. Nothing was deleted; add --yes to delete them.")
    else:
        click.echo("There is nothing to free.")
    going_on = [name for name, run in runs.recorded(store).items() if runs.state(store, name, run) == "running"]
    if going_on:
        click.echo(f"Kept for what goes on just now: {', '.join(going_on)}.")
