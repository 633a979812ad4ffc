"""`homegrown gc`: garbage collection of artifacts."""

import click

from homegrown.reporting.numbers import file_size, quantity
from homegrown.store.artifacts import Store


@click.command()
@click.option("--keep-runs", default=5, show_default=True, type=click.IntRange(min=0), help="Runs to keep per recipe.")
@click.option("--keep", multiple=True, metavar="STAGE@VERSION", help="Artifact to keep with its inputs.")
@click.option("--yes", is_flag=True, help="Delete instead of a dry run.")
@click.pass_obj
def gc(store: Store, keep_runs: int, keep: tuple[str, ...], yes: bool) -> None:
    """Delete artifacts that no recent run needs.

    Kept are the last runs of each recipe that made something (a sweep counts as one run), its best model by bits per
    byte, the last artifact of each recipe and stage, artifacts of active runs and of models that are being served, and
    partial artifacts that an interrupted run can resume. Without --yes, gc only lists the folders.
    """
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table
    from homegrown.store import garbage, runs

    found = garbage.garbage(store, keep_runs, list(keep))
    if found:
        header = ["folder", "size", "bits/byte", "reason"]
        rows = [
            [
                str(one.path.relative_to(store.root)),
                file_size(one.bytes),
                "" if one.bits_per_byte is None else f"{one.bits_per_byte:.4f}",
                one.reason,
            ]
            for one in found
        ]
        print_table(Table(header, rows, align="lrrl"))
    if yes:
        deleted, left = garbage.collect(store, keep_runs, list(keep))
        freed = sum(item.bytes for item in deleted)
        click.echo(f"Deleted {quantity(len(deleted), 'folders')}, {file_size(freed)}.")
        for item in left:
            click.echo(f"Kept, because a process uses it: {item.path.relative_to(store.root)}")
        return
    if found:
        total = file_size(sum(one.bytes for one in found))
        click.echo(f"{quantity(len(found), 'folders')}, {total}. Nothing was deleted; add --yes to delete them.")
    else:
        click.echo("Nothing to delete.")
    active = [name for name, run in runs.recorded(store).items() if runs.state(store, name, run) == "running"]
    if active:
        click.echo(f"Kept for active runs: {', '.join(active)}.")
