"""`homegrown artifacts`: what is in the store."""

from typing import TYPE_CHECKING

import click

from homegrown.cli.options.output import print_table
from homegrown.store.artifacts import KEY_DIGITS, Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.store.inventory import Entry, Unfinished


@click.group(invoke_without_command=True)
@click.option("--run", "name", metavar="RUN", help="Only what this run used; see `homegrown runs`.")
@click.option("--stage", metavar="STAGE", help="Only of this stage.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def artifacts(context: click.Context, name: str | None, stage: str | None, as_json: bool) -> None:
    """List every version of every artifact: which are current, which run used each, what each costs on disk.

    `newest` is the newest whole version of its stage; the name of a recipe says that its last run which came so far
    took this version.
    """
    if context.invoked_subcommand is not None:
        if name is not None or stage is not None or as_json:
            raise UserError(f"--run, --stage and --json belong to the list, not to {context.invoked_subcommand}.")
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
            raise UserError(f"There is no artifact of stage {stage!r}; there are: {', '.join(stages) or 'none'}.")
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
            "bytes": total,
        }
        click.echo(json.dumps(listed, indent=2))
        return
    _print(entries, folders)
    if gone:
        click.echo(f"No longer there, of what {name} used: {', '.join(gone)}.")
    click.echo(f"{len(entries)} artifacts{_and(folders)}, {total / 1e6:,.1f} MB on disk.")


@artifacts.command()
@click.argument("name", metavar="STAGE[@VERSION]")
@click.pass_obj
def show(store: Store, name: str) -> None:
    """Print an artifact's manifest, what it was made from, and what was made from it."""
    artifact = store.resolve(name)
    click.echo(artifact.manifest.model_dump_json(indent=2))
    click.echo(f"\nfolder     {artifact.path}")
    click.echo(f"made from  {', '.join(one.name for one in store.lineage(artifact)) or 'raw input'}")
    click.echo(f"used by    {', '.join(one.name for one in store.outputs(artifact)) or 'nothing yet'}")
    click.echo(f"files      {store.damage(artifact) or 'whole: every size and digest is as published'}")


def _print(entries: "list[Entry]", folders: "list[Unfinished]") -> None:
    rows = [
        (
            entry.artifact.name,
            ", ".join([*(["newest"] if entry.newest else []), *entry.recipes]),
            entry.artifact.manifest.key[:KEY_DIGITS],
            f"{entry.artifact.manifest.started:%Y-%m-%d %H:%M}",
            f"{entry.artifact.manifest.seconds:.1f} s",
            f"{entry.artifact.manifest.rows_out:,} {entry.artifact.manifest.unit}",
            f"{entry.bytes / 1e6:,.1f} MB",
            _users(entry.runs),
        )
        for entry in entries
    ]
    rows += [
        (f"{one.path.parent.name}/{one.path.name}", one.state, "", "", "", "", f"{one.bytes / 1e6:,.1f} MB", "")
        for one in folders
    ]
    print_table(("artifact", "current", "key", "made", "time", "rows", "size", "used by"), rows)


def _users(names: list[str]) -> str:
    """Name the last run, and how many there were before it."""
    if not names:
        return "no run"
    return names[-1] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _and(folders: "list[Unfinished]") -> str:
    return f" and {len(folders)} unfinished" if folders else ""
