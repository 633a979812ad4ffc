"""`homegrown gc`: free what nothing needs."""

import click

from homegrown.artifacts import Store
from homegrown.commands.tables import print_table


@click.command()
@click.option(
    "--keep-runs", default=5, show_default=True, type=click.IntRange(min=0), help="Runs of each recipe to keep."
)
@click.option("--keep", multiple=True, metavar="STAGE@VERSION", help="Artifact to keep with all that it was made from.")
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would be deleted.")
@click.pass_obj
def gc(store: Store, keep_runs: int, keep: tuple[str, ...], yes: bool) -> None:
    """Free what no recent run and no kept artifact stands on."""
    from homegrown import runs

    found = runs.garbage(store, keep_runs, list(keep))
    rows = [(str(item.path), f"{item.bytes / 1e6:,.1f} MB", item.reason) for item in found]
    print_table(("folder", "size", "why"), rows)
    total = sum(item.bytes for item in found) / 1e6
    if yes:
        freed = [store.delete(item.path) for item in found]
        click.echo(f"Deleted {sum(freed)} of {len(found)} folders; those that somebody works in were left.")
    else:
        click.echo(f"{len(found)} folders, {total:,.1f} MB. Nothing was deleted; add --yes to delete them.")
