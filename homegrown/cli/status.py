"""`homegrown status`: shows the server, workers, deployments and runs."""

from typing import TYPE_CHECKING

import click

from homegrown.store.artifacts import Store

if TYPE_CHECKING:
    from datetime import datetime

    from flows.local.status import RunStatus, Status


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.pass_obj
def status(store: Store, as_json: bool) -> None:
    """Show the server, workers, deployments and runs."""
    from flows.local.status import read_status

    found = read_status(store.root / ".state")
    if as_json:
        click.echo(found.as_json())
    else:
        _print(found)


def _print(found: "Status") -> None:
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    up = f"`homegrown up` runs (process {found.up})" if found.up else "`homegrown up` does not run in this folder"
    if not found.answers:
        click.echo(f"No Prefect server answers at {found.api}; {up}.")
        click.echo("Start one with `homegrown up`; `homegrown run` does not need it.")
        _print_errors(found)
        return
    of = f" for the user {found.owner}" if found.owner else ""
    click.echo(f"server       {found.api.removesuffix('/api')} answers{of}; {up}")
    online = [worker for worker in found.workers if worker.online]
    names = ", ".join(f"{worker.name} (pool {worker.pool}, last heartbeat {_ago(worker.heard)})" for worker in online)
    click.echo(f"workers      {names or 'none: start one with `homegrown up`'}")
    click.echo(f"deployments  {', '.join(found.deployments) or 'none: deploy pipelines.yaml with `homegrown up`'}")
    authors = {run.author for run in [*found.in_progress, *found.recent]} - {None}
    author = ["author"] if len(authors) > 1 else []
    click.echo(f"waiting      {found.waiting or 'none'}")
    click.echo(f"in progress  {len(found.in_progress) or 'none'}")
    if found.in_progress:
        header = ["run", *author, "state", "started", "stage", "progress"]
        rows = [_in_progress(run, bool(author)) for run in found.in_progress]
        print_table(Table(header, rows, align="l" * len(header)))
    if found.recent:
        click.echo("recent runs:")
        header = ["run", *author, "state", "started", "took", "message"]
        rows = [_recent(run, bool(author)) for run in found.recent]
        print_table(Table(header, rows, align="l" * (len(header) - 2) + "rl"))
    _print_errors(found)


def _print_errors(found: "Status") -> None:
    for error in found.errors:
        click.echo(error)


def _in_progress(run: "RunStatus", author: bool) -> tuple[str, ...]:
    place = run.place
    share = f"{place.percent:.0f}% " if place and place.percent is not None else ""
    words = (place.words or "") if place else ""
    stage = place.stage if place else ""
    return (run.name, *_author(run, author), run.state, _ago(run.started), stage, f"{share}{words}")


def _recent(run: "RunStatus", author: bool) -> tuple[str, ...]:
    from homegrown.reporting.numbers import duration

    message = "" if run.state == "Completed" else " ".join((run.message or "").split())
    return (run.name, *_author(run, author), run.state, _ago(run.started), duration(run.seconds), message)


def _author(run: "RunStatus", shown: bool) -> list[str]:
    return [run.author or ""] if shown else []


def _ago(time: "datetime | None") -> str:
    from datetime import UTC, datetime

    from homegrown.reporting.numbers import duration

    return f"{duration((datetime.now(UTC) - time).total_seconds())} ago" if time else "never"
