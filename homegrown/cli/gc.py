"""`homegrown gc`: garbage collection of artifacts and of the server's old runs."""

from typing import TYPE_CHECKING

import click

from homegrown.reporting.numbers import file_size, quantity
from homegrown.store.artifacts import Store

if TYPE_CHECKING:
    from homegrown.store.garbage import Garbage


@click.command()
@click.option(
    "--keep-runs",
    type=click.IntRange(min=0),
    show_default="5, or 0 with --keep-days",
    help="Runs to keep per recipe.",
)
@click.option("--keep-days", metavar="DAYS", type=click.IntRange(min=1), help="Days whose runs to keep.")
@click.option("--max-gb", metavar="GB", type=click.FloatRange(min=0, min_open=True), help="Size budget of the store.")
@click.option("--keep", multiple=True, metavar="STAGE@VERSION", help="Artifact to keep with its inputs.")
@click.option("--yes", is_flag=True, help="Delete instead of a dry run.")
@click.pass_obj
def gc(
    store: Store, keep_runs: int | None, keep_days: int | None, max_gb: float | None, keep: tuple[str, ...], yes: bool
) -> None:
    """Delete artifacts that no recent run needs.

    Kept are the last runs of each recipe that made something (a sweep counts as one run), its best model by bits per
    byte, the last artifact of each recipe and stage, artifacts of active runs and of models that are being served, and
    partial artifacts that an interrupted run can resume. Without --yes, gc only lists the folders.

    --keep-days keeps the runs of these days, and deletes older runs of the store from the Prefect server, with their
    logs. If the store is larger than --max-gb, the oldest of the kept runs lose their artifacts.
    """
    from homegrown.store import garbage, runs

    last = keep_runs if keep_runs is not None else (5 if keep_days is None else 0)
    budget = None if max_gb is None else round(max_gb * 1e9)
    found = garbage.garbage(store, last, list(keep), keep_days=keep_days, max_bytes=budget)
    _print(store, found)
    if yes:
        deleted, left = garbage.collect(store, last, list(keep), keep_days=keep_days, max_bytes=budget)
        freed = sum(item.bytes for item in deleted)
        click.echo(f"Deleted {quantity(len(deleted), 'folders')}, {file_size(freed)}.")
        for item in left:
            click.echo(f"Kept, because a process uses it: {item.path.relative_to(store.root)}")
    elif found:
        total = file_size(sum(one.bytes for one in found))
        click.echo(f"{quantity(len(found), 'folders')}, {total}. Nothing was deleted; add --yes to delete them.")
    else:
        click.echo("Nothing to delete.")
    if budget is not None:
        size = garbage.size_on_disk(store.root) - (0 if yes else sum(one.bytes for one in found))
        if size > budget:
            click.echo(
                f"The store {'has' if yes else 'would have'} {file_size(size)}, more than --max-gb {max_gb:g}: "
                "the rest is in use, named, or the last or best of its recipe."
            )
    if keep_days is not None:
        _old_runs(store, keep_days, yes)
    active = [name for name, run in runs.recorded(store).items() if runs.state(store, name, run) == "running"]
    if active and not yes:
        click.echo(f"Kept for active runs: {', '.join(active)}.")


def _print(store: Store, found: "list[Garbage]") -> None:
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    if not found:
        return
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


def _old_runs(store: Store, days: int, yes: bool) -> None:
    """Delete the store's runs that ended more than `days` days ago from the Prefect server, or list them."""
    from datetime import UTC, datetime, timedelta

    from flows.local import history, server
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table
    from homegrown.store import runs

    api = server.address()
    if not server.answers(api):
        click.echo(f"No Prefect server answers at {api}, so its old runs stay; start it with `homegrown up`.")
        return
    old = history.old_runs(runs.recorded(store), datetime.now(UTC) - timedelta(days=days))
    if not old:
        click.echo(f"The Prefect server at {api} has no runs of this store older than {quantity(days, 'days')}.")
        return
    rows = [[run.name, run.state_name or "", f"{run.end_time:%Y-%m-%d %H:%M}"] for run in old]
    print_table(Table(["run in Prefect's database", "state", "ended (UTC)"], rows, align="lll"))
    if yes:
        history.delete(old)
        click.echo(f"Deleted {quantity(len(old), 'runs')} from the Prefect server; `homegrown runs` still lists them.")
    else:
        click.echo(f"{quantity(len(old), 'runs')} of the Prefect server would be deleted, with logs and pages.")
