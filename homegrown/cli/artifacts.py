"""`homegrown artifacts`: the artifacts of the store."""

from typing import TYPE_CHECKING

import click

from homegrown.reporting.numbers import duration, file_size, quantity
from homegrown.store.artifacts import KEY_DIGITS, Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.store.inventory import DiskUse, Entry, Unfinished


@click.group(invoke_without_command=True)
@click.option("--run", "name", metavar="RUN", help="Only artifacts of this run; see `homegrown runs`.")
@click.option("--stage", metavar="STAGE", help="Only artifacts of this stage.")
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.pass_context
def artifacts(context: click.Context, name: str | None, stage: str | None, as_json: bool) -> None:
    """List all artifacts, with their runs and sizes.

    Below is the disk use of each recipe, with the part that no other recipe shares.
    `newest` marks the newest complete version of a stage, and the name of a recipe the version that its last run used.
    """
    if context.invoked_subcommand is not None:
        if name is not None or stage is not None or as_json:
            raise UserError(f"--run, --stage and --json do not apply to {context.invoked_subcommand}; leave them out.")
        return
    import json

    from homegrown.store import inventory, runs
    from homegrown.store.run_names import find_run

    store: Store = context.obj
    records = runs.recorded(store)
    entries, folders = inventory.inventory(store, records), inventory.unfinished(store)
    stages = dict.fromkeys(entry.artifact.manifest.stage for entry in entries)
    gone: list[str] = []
    if stage is not None:
        if stage not in stages:
            raise UserError(f"No artifact of stage {stage!r} exists; choose from: {', '.join(stages) or 'none'}.")
        entries = [entry for entry in entries if entry.artifact.manifest.stage == stage]
        folders = [folder for folder in folders if folder.path.parent.name == stage]
    if name is not None:
        name = find_run(records, name)
        entries, folders = [entry for entry in entries if name in entry.runs], []
        there = {entry.artifact.manifest.stage for entry in entries}
        gone = [one for one in records[name].keys if one not in there and stage in (None, one)]
    total = sum(entry.bytes for entry in entries) + sum(folder.bytes for folder in folders)
    if as_json:
        listed = {
            "artifacts": [entry.as_json() for entry in entries],
            "unfinished": [{"path": str(one.path), "state": one.state, "bytes": one.bytes} for one in folders],
            "gone": gone,
            "recipes": [use.as_json() for use in inventory.disk_use(entries, records)],
            "bytes": total,
        }
        click.echo(json.dumps(listed, indent=2))
        return
    _print(entries, folders)
    if name is None:
        _print_use(inventory.disk_use(entries, records))
    if gone:
        click.echo(f"Deleted artifacts of {name}: {', '.join(gone)}.")
    click.echo(f"{quantity(len(entries), 'artifacts')}{_and(folders)}, {file_size(total)} on disk.")


@artifacts.command()
@click.argument("name", metavar="STAGE[@VERSION]")
@click.pass_obj
def show(store: Store, name: str) -> None:
    """Show an artifact's manifest and lineage."""
    artifact = store.resolve(name)
    click.echo(artifact.manifest.model_dump_json(indent=2))
    click.echo(f"\nfolder     {artifact.path}")
    click.echo(f"made from  {', '.join(one.name for one in store.lineage(artifact)) or 'raw input'}")
    click.echo(f"used by    {', '.join(one.name for one in store.outputs(artifact)) or 'nothing'}")
    click.echo(f"files      {store.damage(artifact) or 'complete: every size and digest matches'}")


def _print(entries: "list[Entry]", folders: "list[Unfinished]") -> None:
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    rows = [
        [
            entry.artifact.name,
            ", ".join([*(["newest"] if entry.newest else []), *entry.recipes]),
            entry.artifact.manifest.key[:KEY_DIGITS],
            f"{entry.artifact.manifest.started:%Y-%m-%d %H:%M}",
            duration(entry.artifact.manifest.seconds),
            quantity(entry.artifact.manifest.rows_out, entry.artifact.manifest.unit),
            file_size(entry.bytes),
            _users(entry.runs),
        ]
        for entry in entries
    ]
    rows += [
        [f"{one.path.parent.name}/{one.path.name}", one.state, "", "", "", "", file_size(one.bytes), ""]
        for one in folders
    ]
    header = ["artifact", "current", "key", "made (UTC)", "time", "rows", "size", "used by"]
    print_table(Table(header, rows, align="llllrrrl"))


def _print_use(uses: "list[DiskUse]") -> None:
    from homegrown.reporting.blocks import Table
    from homegrown.reporting.terminal import print_table

    if not uses:
        return
    rows = [
        [use.recipe or "no run", str(use.artifacts), file_size(use.bytes), file_size(use.own_bytes)] for use in uses
    ]
    print_table(Table(["recipe", "artifacts", "size", "not shared"], rows, align="lrrr"))


def _users(names: list[str]) -> str:
    """Name the last run, and how many other runs there are."""
    if not names:
        return "no run"
    return names[-1] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _and(folders: "list[Unfinished]") -> str:
    return f" and {len(folders)} unfinished" if folders else ""
